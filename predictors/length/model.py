"""``fast``: ranks prompts by how long their answers will be, from WordLlama embeddings and lexical features.

A :class:`~predictors.length.trend.Trend` (ridge) and the lexical features feed LightGBM trees trained with lambdarank.
Loading reads LightGBM's text format, JSON and npz; there is no pickle. Nothing here reads clocks or files later.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from predictors.artifact import Artifact, ArtifactSchema, load
from predictors.embedding import DIMENSIONS, EMBEDDING
from predictors.length.features import FEATURES, Readings, read
from predictors.length.single import Single
from predictors.length.trend import Places, Trend
from predictors.types import Prompt

KIND: Final = "length"
SCHEMA: Final[tuple[str, ...]] = (f"embedding:{EMBEDDING}", "trend_place", "trend_level", *FEATURES)
"""What the trees are trained on; its hash ties an artifact to the code that computes it."""
RANKER_FILE: Final = "ranker.txt"
TABLES_FILE: Final = "tables.json"
ARRAYS_FILE: Final = "arrays.npz"
_KNOTS: Final = ("score", "rank", "log_tokens")
_FAR: Final = 1000.0
_FEW: Final = 64
"""So many prompts are scored one by one, which is faster for each than all together."""
_LIMITS: Final = ("least_likeness", "most_strangeness")
_ARRAYS: Final = ("bias", "mean", "scale", "lexical", "landmarks", "likeness")

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LengthScores:
    """One row a prompt. ``rank`` orders prompts by expected length of the answer (higher = longer): about the share of
    training prompts with shorter answers, so about 0 to 1. ``tokens`` is the expected length for a typical model, in
    tokens. Both respect the prompt's own ``max_tokens``. Where ``in_distribution`` is false, neither is worth much."""

    rank: NDArray[np.float64]
    tokens: NDArray[np.float64]
    in_distribution: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Strictly increasing knots (k,): the trees' score, its rank among training prompts, the expected tokens there.

    Between knots ranks are linear in the score, and the logarithm of tokens is linear in the rank. :meth:`through` adds
    far knots, so that both go on at the slope of the outermost pieces.
    """

    score: Matrix
    rank: Matrix
    log_tokens: Matrix

    def rank_of(self, score: float) -> float:
        """:meth:`ranks` of one score."""
        return _between(score, self.score, self.rank)

    def tokens_at(self, rank: float) -> float:
        """:meth:`tokens` at one rank."""
        return float(np.exp(_between(rank, self.rank, self.log_tokens)))

    @classmethod
    def through(cls, score: Matrix, rank: Matrix, log_tokens: Matrix) -> Calibration:
        """Through these knots (at least two), and on beyond them."""
        return cls(*(_continued(values, score) for values in (score, rank, log_tokens)))

    def ranks(self, scores: Matrix) -> Matrix:
        """Ranks (n,) of raw scores."""
        return np.asarray(np.interp(scores, self.score, self.rank), dtype=np.float64)

    def tokens(self, ranks: Matrix) -> Matrix:
        """Expected tokens (n,) at ranks."""
        return np.asarray(np.exp(np.interp(ranks, self.rank, self.log_tokens)), dtype=np.float64)

    def ranks_of_tokens(self, tokens: Matrix) -> Matrix:
        """The inverse of :meth:`tokens`."""
        return np.asarray(np.interp(np.log(tokens), self.log_tokens, self.rank), dtype=np.float64)


def _continued(values: Matrix, score: Matrix) -> Matrix:
    """Values at knots, and at two more where the score is ``_FAR`` times its range further out."""
    far = _FAR * (score[-1] - score[0])
    before = values[0] - far * (values[1] - values[0]) / (score[1] - score[0])
    after = values[-1] + far * (values[-1] - values[-2]) / (score[-1] - score[-2])
    return np.concatenate([[before], values, [after]])


def _between(x: float, knots: Matrix, values: Matrix) -> float:
    """``np.interp`` of one number, in its own arithmetic."""
    at = int(knots.searchsorted(x, "right")) - 1
    if at < 0:
        return float(values[0])
    if at >= len(knots) - 1:
        return float(values[-1])
    left, right = float(knots[at]), float(knots[at + 1])
    low, high = float(values[at]), float(values[at + 1])
    return low if x == left else (high - low) / (right - left) * (x - left) + low


@dataclass(frozen=True, slots=True)
class Guard:
    """Beyond which a prompt is unlike those trained on: the least cosine to a landmark, and the greatest root mean
    square of its standardised lexical features."""

    least_likeness: float
    most_strangeness: float

    def accepts(self, places: Places) -> NDArray[np.bool_]:
        """Whether each prompt (n,) is like those trained on."""
        return (places.likeness >= self.least_likeness) & (places.strangeness <= self.most_strangeness)


class FastLength:
    """The serving half. Immutable after construction; safe to share between threads."""

    def __init__(self, trend: Trend, ranker: str, calibration: Calibration, guard: Guard) -> None:
        """``ranker`` is LightGBM's text format.

        Raises:
            ArtifactSchema: it is not, or its columns are not :data:`SCHEMA`'s.
        """
        self.trend = trend
        self.calibration = calibration
        self.guard = guard
        self._ranker_text = ranker
        try:
            self._ranker = lightgbm.Booster(model_str=ranker)
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactSchema(f"{RANKER_FILE} is not a LightGBM model: {error}") from error
        columns = 2 + len(FEATURES)
        if self._ranker.num_feature() != columns:
            raise ArtifactSchema(f"{RANKER_FILE} has {self._ranker.num_feature()} columns, not {columns}")
        self._single = Single(trend, ranker)

    @classmethod
    def load(cls, path: Path) -> FastLength:
        """Load and verify an artifact folder.

        Raises:
            ArtifactError: missing, tampered with, or made for other features.
        """
        return cls.from_artifact(load(path, kind=KIND, features=SCHEMA))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> FastLength:
        """From files already verified."""
        return cls.from_files({name: artifact.read(name) for name in (RANKER_FILE, TABLES_FILE, ARRAYS_FILE)})

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> FastLength:
        """From the bytes of :meth:`export`.

        Raises:
            ArtifactSchema: they do not fit together.
        """
        try:
            tables = json.loads(files[TABLES_FILE])
            arrays = _arrays(files[ARRAYS_FILE])
            trend = Trend(
                gamma=float(tables["gamma"]),
                words={word: (float(i), float(p), float(v)) for word, (i, p, v) in tables["words"].items()},
                **arrays,
            )
            calibration = Calibration(**{name: np.asarray(tables["calibration"][name], float) for name in _KNOTS})
            guard = Guard(**{name: float(tables["guard"][name]) for name in _LIMITS})
            ranker = files[RANKER_FILE].decode()
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ArtifactSchema(f"not a fast length ranker: {type(error).__name__}: {error}") from error
        return cls(trend, ranker, calibration, guard)

    def export(self) -> dict[str, bytes]:
        """The files of an artifact; :meth:`from_files` gives back a model that predicts the same bits."""
        trend = self.trend
        tables: dict[str, Any] = {
            "gamma": trend.gamma,
            "words": {word: list(values) for word, values in sorted(trend.words.items())},
            "calibration": {name: getattr(self.calibration, name).tolist() for name in _KNOTS},
            "guard": {name: getattr(self.guard, name) for name in _LIMITS},
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{name: getattr(trend, name) for name in _ARRAYS})
        return {
            RANKER_FILE: self._ranker_text.encode(),
            TABLES_FILE: json.dumps(tables, ensure_ascii=False, allow_nan=False).encode(),
            ARRAYS_FILE: buffer.getvalue(),
        }

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        """Score prompts; ``embeddings`` (n, 256) are :meth:`predictors.embedding.Embedder.embed` of their texts."""
        if embeddings.shape != (len(prompts), DIMENSIONS):
            raise ValueError(f"{len(prompts)} prompts need embeddings ({len(prompts)}, 256), not {embeddings.shape}")
        if not prompts:
            return LengthScores(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_))
        if not self._single.usable or len(prompts) > _FEW:
            return self._together(prompts, embeddings)
        rows = [self._alone(prompt, embedding) for prompt, embedding in zip(prompts, embeddings, strict=True)]
        ranks, tokens, known = zip(*rows, strict=True)
        return LengthScores(np.array(ranks), np.array(tokens), np.array(known))

    def _together(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        readings = read(prompts)
        places = self.trend.place(readings, embeddings)
        ranks = self.calibration.ranks(self._scores(readings, places))
        tokens = self.calibration.tokens(ranks)
        limits = np.array([prompt.max_tokens if prompt.max_tokens else np.inf for prompt in prompts], dtype=np.float64)
        over = tokens > limits
        if over.any():
            tokens[over] = limits[over]
            ranks[over] = self.calibration.ranks_of_tokens(limits[over])
        return LengthScores(ranks, tokens, self.guard.accepts(places))

    def _alone(self, prompt: Prompt, embedding: NDArray[np.float32]) -> tuple[float, float, bool]:
        """Rank, tokens, and whether it is in distribution: the same for one prompt, faster."""
        found = self._single.score(prompt, embedding)
        if found is None:
            whole = self._together([prompt], embedding[None])
            return whole.rank[0], whole.tokens[0], whole.in_distribution[0]
        rank = self.calibration.rank_of(found.score)
        tokens = self.calibration.tokens_at(rank)
        if prompt.max_tokens and tokens > prompt.max_tokens:
            tokens = float(prompt.max_tokens)
            rank = float(self.calibration.ranks_of_tokens(np.array([tokens]))[0])
        known = found.likeness >= self.guard.least_likeness and found.strangeness <= self.guard.most_strangeness
        return rank, tokens, known

    def _scores(self, readings: Readings, places: Places) -> Matrix:
        columns = np.empty((len(readings.words), 2 + len(FEATURES)))
        columns[:, :2] = self.trend.predict(readings, places)
        columns[:, 2:] = readings.lexical
        return np.asarray(self._ranker.predict(columns, num_threads=1, validate_features=False), dtype=np.float64)


def _arrays(encoded: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(encoded), allow_pickle=False) as stored:
        arrays = {name: np.asarray(stored[name]) for name in _ARRAYS}
    features, landmarks = len(FEATURES), len(arrays["landmarks"])
    expected = {
        "bias": (2,),
        "mean": (features,),
        "scale": (features,),
        "lexical": (2, features),
        "landmarks": (landmarks, DIMENSIONS),
        "likeness": (2, landmarks),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
    if landmarks == 0:
        raise ValueError("there is no landmark")
    return arrays
