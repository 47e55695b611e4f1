"""``deep``: ranks prompts by how long their answers will be, from a small language model's reading of them.

The serving half: a linear head on an encoder's features and a calibration. No torch; nothing is unpickled.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.length.calibration import Calibration
from predictors.length.deep.head import Head
from predictors.length.model import LengthScores
from predictors.types import Prompt

HEAD_FILE: Final = "head.npz"
TABLES_FILE: Final = "deep.json"
_KNOTS: Final = ("score", "rank", "log_tokens", "log_high", "log_tail")


class DeepLength:
    """Head and calibration for the features of one encoder. Immutable; safe to share between threads."""

    def __init__(self, head: Head, calibration: Calibration, encoder: str) -> None:
        """``encoder`` is the digest of the one whose features the head was fitted on."""
        self.head, self.calibration, self.encoder = head, calibration, encoder

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> DeepLength:
        """From the bytes of :meth:`export`.

        Raises:
            ArtifactSchema: they do not fit together.
        """
        try:
            tables = json.loads(files[TABLES_FILE])
            with np.load(io.BytesIO(files[HEAD_FILE]), allow_pickle=False) as stored:
                mean, scale, weights = (np.asarray(stored[name], float) for name in ("mean", "scale", "weights"))
                knots = {name: np.asarray(stored[name], float) for name in _KNOTS}
            if not mean.shape == scale.shape == weights.shape == (weights.size,) or not (scale > 0).all():
                raise ValueError("mean, scale and weights must be as long as each other, and every scale positive")
            calibration = Calibration(**knots)
            calibration.check()
            head = Head(mean, scale, weights, float(tables["bias"]), float(tables["strength"]))
            return cls(head, calibration, str(tables["encoder"]))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ArtifactSchema(f"not a deep length ranker: {type(error).__name__}: {error}") from error

    def export(self) -> dict[str, bytes]:
        """The files of an artifact; :meth:`from_files` gives back a model that predicts the same bits."""
        buffer, head = io.BytesIO(), self.head
        knots = {name: getattr(self.calibration, name) for name in _KNOTS}
        np.savez(buffer, allow_pickle=False, mean=head.mean, scale=head.scale, weights=head.weights, **knots)
        tables = {"bias": head.bias, "strength": head.strength, "encoder": self.encoder}
        return {HEAD_FILE: buffer.getvalue(), TABLES_FILE: json.dumps(tables).encode()}

    def predict(self, prompts: Sequence[Prompt], features: NDArray[np.floating]) -> LengthScores:
        """Score prompts by their features (n, d), as :meth:`~predictors.length.deep.encoder.Encoder.embed` has them.

        Prompts whose features are not all finite are out of distribution; so is an empty text.

        Raises:
            ValueError: the features are of another shape.
        """
        if features.shape != (len(prompts), self.head.weights.size):
            wanted = (len(prompts), self.head.weights.size)
            raise ValueError(f"{len(prompts)} prompts need features {wanted}, not {features.shape}")
        finite = np.isfinite(features).all(axis=1) if len(prompts) else np.empty(0, dtype=np.bool_)
        scores = self.head.score(np.where(finite[:, None], features, self.head.mean))
        ranks = self.calibration.ranks(scores)
        tokens = self.calibration.tokens(ranks)
        limits = np.array([prompt.max_tokens or np.inf for prompt in prompts], dtype=np.float64)
        high, tail = self.calibration.above(ranks, limits)
        over = tokens > limits
        tokens[over] = limits[over]
        ranks[over] = self.calibration.ranks_of_tokens(limits[over])
        known = finite & np.array([bool(prompt.text.strip()) for prompt in prompts], dtype=np.bool_)
        return LengthScores(ranks, tokens, known, high, tail)
