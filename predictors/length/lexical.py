"""``lexical``: ranks prompts by their lexical features alone, in microseconds: for a cold start, and as a fallback.

A linear score of standardised features and its calibration; then what the tenant's and the route's answers have been
like, where any were observed. Needs no embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.compiled import compiled
from predictors.length.calibration import Calibration, calibrated
from predictors.length.features import FEATURES, read
from predictors.length.model import LengthScores
from predictors.length.reading import Reader
from predictors.length.tenant_history import TenantHistory
from predictors.length.trend import Z_LIMIT
from predictors.types import Prompt

__all__ = ["LEXICAL_FILE", "LexicalLength"]

LEXICAL_FILE: Final = "lexical.json"
HISTORY_FILE: Final = "tenants.json"
_KNOTS: Final = ("score", "rank", "log_tokens", "log_high", "log_tail")
_FEATURES: Final = len(FEATURES)

Matrix = NDArray[np.float64]
Key = tuple[str | None, str | None]
"""A tenant and a route."""


class LexicalLength:
    """The serving half. Only :meth:`observe` changes it."""

    def __init__(
        self,
        mean: Matrix,
        scale: Matrix,
        weights: Matrix,
        calibration: Calibration,
        most_strangeness: float,
        history: TenantHistory | None = None,
    ) -> None:
        """``mean``, ``scale`` and ``weights`` (F,) are of the lexical features; a scale of 0 leaves one out."""
        self.mean, self.scale, self.weights = mean, scale, weights
        self.calibration = calibration
        self._knots = tuple(getattr(calibration, name) for name in _KNOTS)
        self.most_strangeness = most_strangeness
        self.history = history or TenantHistory()
        self._reader = Reader({})
        if self._reader.usable:
            self.predict_one(Prompt("Compiles the kernels."))

    def predict(
        self,
        prompts: Sequence[Prompt],
        embeddings: NDArray[np.float32] | None = None,
        keys: Sequence[Key] | None = None,
    ) -> LengthScores:
        """Score prompts, of the tenants and routes ``keys`` (n) where those are known; embeddings are not read."""
        if not prompts:
            return LengthScores(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0), np.empty(0))
        every: Sequence[Key] = [(None, None)] * len(prompts) if keys is None else keys
        rows = [self.predict_one(prompt, None, key) for prompt, key in zip(prompts, every, strict=True)]
        rank, tokens, known, high, tail = zip(*rows, strict=True)
        return LengthScores(np.array(rank), np.array(tokens), np.array(known), np.array(high), np.array(tail))

    def predict_one(
        self, prompt: Prompt, embedding: NDArray[np.float32] | None = None, key: Key = (None, None)
    ) -> tuple[float, float, bool, float, float]:
        """Rank, tokens, whether it is in distribution, high and tail (:class:`~predictors.length.model.LengthScores`)
        of one prompt."""
        score, strangeness = self._score(prompt)
        offset = self.history.offset(*key)
        limit = float(prompt.max_tokens) if prompt.max_tokens and prompt.max_tokens > 0 else np.inf
        rank, tokens, high, tail = _placed(score, offset, limit, self._knots)
        return rank, tokens, strangeness <= self.most_strangeness, high, tail

    def observe(self, prompt: Prompt, key: Key, tokens: float) -> None:
        """A tenant's and a route's answer of so many tokens."""
        score, _ = self._score(prompt)
        _, expected, _, _ = _placed(score, 0.0, float(prompt.max_tokens or np.inf), self._knots)
        self.history.observe(*key, expected, tokens)

    def export(self) -> dict[str, bytes]:
        """Files, from which :meth:`from_files` makes one that predicts the same bits."""
        tables: dict[str, Any] = {"features": list(FEATURES), "most_strangeness": self.most_strangeness}
        tables |= {name: getattr(self, name).tolist() for name in ("mean", "scale", "weights")}
        tables["calibration"] = {name: getattr(self.calibration, name).tolist() for name in _KNOTS}
        return {LEXICAL_FILE: json.dumps(tables, allow_nan=False).encode(), HISTORY_FILE: self.history.export()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> LexicalLength:
        """The inverse of :meth:`export`.

        Raises:
            ArtifactSchema: they are not such files, or of other features.
        """
        try:
            tables = json.loads(files[LEXICAL_FILE])
            if tables["features"] != list(FEATURES):
                raise ValueError("it was trained on other features than this version computes; train it again")
            arrays = [np.asarray(tables[name], dtype=np.float64) for name in ("mean", "scale", "weights")]
            if any(array.shape != (_FEATURES,) or not np.isfinite(array).all() for array in arrays):
                raise ValueError("it needs a finite mean, scale and weight of every feature")
            calibration = Calibration(**{name: np.asarray(tables["calibration"][name], float) for name in _KNOTS})
            calibration.check()
            history = TenantHistory.load(files[HISTORY_FILE])
            mean, scale, weights = arrays
            return cls(mean, scale, weights, calibration, float(tables["most_strangeness"]), history)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactSchema(f"not a lexical length ranker: {type(error).__name__}: {error}") from error

    def _score(self, prompt: Prompt) -> tuple[float, float]:
        """The linear score, and the root mean square of the standardised features."""
        found = self._reader.read(prompt) if self._reader.usable else None
        lexical = read([prompt]).lexical[0] if found is None else found[0]
        return _linear(lexical, self.mean, self.scale, self.weights)


def _placed(score: float, offset: float, limit: float, knots: tuple[Matrix, ...]) -> tuple[float, float, float, float]:
    """Rank, tokens, high and tail of a score, with ``offset`` added to the logarithm of expected tokens."""
    if offset:
        _, tokens, _, _ = calibrated(score, np.inf, *knots)
        score = float(np.interp(np.log(tokens) + offset, knots[2], knots[0]))
    return calibrated(score, limit, *knots)


@compiled
def _linear(lexical: NDArray[np.float32], mean: Matrix, scale: Matrix, weights: Matrix) -> tuple[float, float]:
    score, squares = 0.0, 0.0
    for at in range(len(lexical)):
        if scale[at] > 0.0:
            z = min(max((lexical[at] - mean[at]) / scale[at], -Z_LIMIT), Z_LIMIT)
            score += z * weights[at]
            squares += z * z
    return score, np.sqrt(squares / len(lexical))
