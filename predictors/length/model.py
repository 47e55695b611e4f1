"""``fast``: ranks prompts by how long their answers will be, from WordLlama embeddings and lexical features.

A :class:`~predictors.length.trend.Trend` (ridge) and the lexical features feed LightGBM trees trained with lambdarank;
the raw score is the trees' plus a share of the trend itself.
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
from predictors.length.calibration import Calibration
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
_ABOVE: Final = ("log_high", "log_tail")
"""Absent from artifacts that were trained without quantiles."""
_FEW: Final = 64
"""So many prompts are scored one by one, which is faster for each than all together."""
_LIMITS: Final = ("least_likeness", "most_strangeness")
_ARRAYS: Final = ("bias", "mean", "scale", "lexical", "landmarks", "likeness")

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LengthScores:
    """One row a prompt. ``rank`` orders prompts by expected length of the answer (higher = longer): about the share of
    training prompts with shorter answers, so about 0 to 1.

    The rest is of the answer of a typical model (:class:`~predictors.length.per_model.PerModelMap` has it for one of
    your own), in tokens: ``tokens`` is its expected length, ``high`` its 0.9 quantile, with a conformal correction from
    out-of-fold scores, and ``tail`` the expected length of the longest tenth (CVaR at 0.9). All respect the prompt's
    own ``max_tokens``: ``high`` and ``tail`` are those of ``min(length, max_tokens)``. Artifacts trained without
    quantiles (``length/fast`` up to version 2) have NaN for both. Where ``in_distribution`` is false, none is worth
    much."""

    rank: NDArray[np.float64]
    tokens: NDArray[np.float64]
    in_distribution: NDArray[np.bool_]
    high: NDArray[np.float64]
    tail: NDArray[np.float64]


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

    def __init__(
        self,
        trend: Trend,
        ranker: str,
        calibration: Calibration,
        guard: Guard,
        blend: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """``ranker`` is LightGBM's text format; ``blend`` are the weights of the trend's two outputs in the raw score.

        Raises:
            ArtifactSchema: it is not, or its columns are not :data:`SCHEMA`'s.
        """
        self.trend = trend
        self.calibration = calibration
        self.guard = guard
        self.blend = blend
        self._ranker_text = ranker
        try:
            self._ranker = lightgbm.Booster(model_str=ranker)
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactSchema(f"{RANKER_FILE} is not a LightGBM model: {error}") from error
        columns = 2 + len(FEATURES)
        if self._ranker.num_feature() != columns:
            raise ArtifactSchema(f"{RANKER_FILE} has {self._ranker.num_feature()} columns, not {columns}")
        knots = tuple(getattr(calibration, name) for name in (*_KNOTS, *_ABOVE))
        self._single = Single(trend, ranker, knots, (guard.least_likeness, guard.most_strangeness), blend)

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
            trend = decode_trend(tables, files[ARRAYS_FILE])
            knots = {name: np.asarray(tables["calibration"][name], float) for name in _KNOTS}
            unknown = np.full_like(knots["score"], np.nan)
            above = {name: np.asarray(tables["calibration"].get(name, unknown), float) for name in _ABOVE}
            calibration = Calibration(**knots, **above)
            calibration.check()
            guard = Guard(**{name: float(tables["guard"][name]) for name in _LIMITS})
            ranker = files[RANKER_FILE].decode()
            place, level = tables.get("blend", (0.0, 0.0))
            blend = (float(place), float(level))
            if not np.isfinite(blend).all():
                raise ValueError("the blend is not finite")
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ArtifactSchema(f"not a fast length ranker: {type(error).__name__}: {error}") from error
        return cls(trend, ranker, calibration, guard, blend)

    def export(self) -> dict[str, bytes]:
        """The files of an artifact; :meth:`from_files` gives back a model that predicts the same bits."""
        trend = self.trend
        names = _KNOTS if np.isnan(self.calibration.log_high).all() else (*_KNOTS, *_ABOVE)
        tables: dict[str, Any] = {
            **trend_tables(trend),
            "calibration": {name: getattr(self.calibration, name).tolist() for name in names},
            "blend": list(self.blend),
            "guard": {name: getattr(self.guard, name) for name in _LIMITS},
        }
        return {
            RANKER_FILE: self._ranker_text.encode(),
            TABLES_FILE: json.dumps(tables, ensure_ascii=False, allow_nan=False).encode(),
            ARRAYS_FILE: trend_arrays(trend),
        }

    def predict(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        """Score prompts; ``embeddings`` (n, 256) are :meth:`predictors.embedding.Embedder.embed` of their texts."""
        if embeddings.shape != (len(prompts), DIMENSIONS):
            raise ValueError(f"{len(prompts)} prompts need embeddings ({len(prompts)}, 256), not {embeddings.shape}")
        if not prompts:
            return LengthScores(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0), np.empty(0))
        if not self._single.usable or len(prompts) > _FEW:
            return self._together(prompts, embeddings)
        rows = [self.predict_one(prompt, embedding) for prompt, embedding in zip(prompts, embeddings, strict=True)]
        ranks, tokens, known, high, tail = zip(*rows, strict=True)
        return LengthScores(np.array(ranks), np.array(tokens), np.array(known), np.array(high), np.array(tail))

    def predict_one(self, prompt: Prompt, embedding: NDArray[np.float32]) -> tuple[float, float, bool, float, float]:
        """Rank, tokens, whether it is in distribution, high and tail (:class:`LengthScores`) of one prompt and its
        embedding (256,): the same, faster."""
        found = self._single.score(prompt, embedding) if self._single.usable else None
        if found is not None:
            return found
        whole = self._together([prompt], embedding[None])
        rank, tokens, high, tail = (float(v[0]) for v in (whole.rank, whole.tokens, whole.high, whole.tail))
        return rank, tokens, bool(whole.in_distribution[0]), high, tail

    def _together(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> LengthScores:
        readings = read(prompts)
        places = self.trend.place(readings, embeddings)
        ranks = self.calibration.ranks(self._scores(readings, places))
        tokens = self.calibration.tokens(ranks)
        limits = np.array([prompt.max_tokens if prompt.max_tokens else np.inf for prompt in prompts], dtype=np.float64)
        high, tail = self.calibration.above(ranks, limits)
        over = tokens > limits
        if over.any():
            tokens[over] = limits[over]
            ranks[over] = self.calibration.ranks_of_tokens(limits[over])
        return LengthScores(ranks, tokens, self.guard.accepts(places), high, tail)

    def _scores(self, readings: Readings, places: Places) -> Matrix:
        columns = np.empty((len(readings.words), 2 + len(FEATURES)))
        columns[:, :2] = self.trend.predict(readings, places)
        columns[:, 2:] = readings.lexical
        trees = np.asarray(self._ranker.predict(columns, num_threads=1, validate_features=False), dtype=np.float64)
        return np.asarray(trees + self.blend[0] * columns[:, 0] + self.blend[1] * columns[:, 1], dtype=np.float64)


def trend_tables(trend: Trend) -> dict[str, Any]:
    """What of a trend is written as JSON."""
    return {"gamma": trend.gamma, "words": {word: list(values) for word, values in sorted(trend.words.items())}}


def trend_arrays(trend: Trend) -> bytes:
    """What of a trend is written as npz."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: getattr(trend, name) for name in _ARRAYS})
    return buffer.getvalue()


def decode_trend(tables: Mapping[str, Any], arrays: bytes) -> Trend:
    """A trend from :func:`trend_tables` and :func:`trend_arrays`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OSError: they are not that.
    """
    words = {word: (float(i), float(p), float(v)) for word, (i, p, v) in tables["words"].items()}
    return Trend(gamma=float(tables["gamma"]), words=words, **_arrays(arrays))


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
