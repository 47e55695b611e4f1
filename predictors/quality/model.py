"""Expected answer quality of each model for a prompt it has never seen: the serving half (numpy only)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors import artifact
from predictors.artifact import ArtifactSchema, Manifest
from predictors.embedding import DIMENSIONS, EMBEDDING
from predictors.quality.neighbours import ANCHORS, POINT_GRID, KnnSettings, Metric, estimate, nearest
from predictors.quality.scan import Scan

KIND: Final = "quality"
FEATURES: Final = (EMBEDDING,)
_MODEL: Final = "model.json"
_BANK: Final = "bank.npz"
_FEW: Final = 64
"""So many prompts are judged one by one, which is faster for each than all together."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QualityScores:
    """One row a prompt. ``quality`` (n, n_models) in [0, 1], columns as :attr:`KnnQuality.models_`.

    ``familiarity`` (n,) is the mean cosine to the nearest known prompts; where it is under nearly all that was seen in
    training, ``in_distribution`` (n,) is false and the quality is only the models' mean.
    """

    quality: Array
    in_distribution: NDArray[np.bool_]
    familiarity: Array


@dataclass(frozen=True, slots=True)
class Price:
    """List prices, and the output tokens to expect of an answer where nothing better is known."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Bank:
    """Known prompts ``points`` (N, 256) in ``metric``, their ``quality`` (N, M), and its mean ``prior`` (M,).

    ``guard`` and ``known`` are familiarities: under the first the prior is used, under the second a prompt is out of
    distribution.
    """

    models: tuple[str, ...]
    prices: tuple[Price, ...]
    settings: KnnSettings
    guard: float
    known: float
    metric: Metric
    points: Array
    quality: Array
    prior: Array

    def __post_init__(self) -> None:
        n, m = self.points.shape[0], len(self.models)
        shapes = {
            "points": (self.points.shape, (n, DIMENSIONS)),
            "centre": (self.metric.centre.shape, (DIMENSIONS,)),
            "axes": (self.metric.axes.shape, (DIMENSIONS, DIMENSIONS)),
            "quality": (self.quality.shape, (n, m)),
            "prior": (self.prior.shape, (m,)),
            "prices": ((len(self.prices),), (m,)),
        }
        for name, (found, right) in shapes.items():
            if found != right:
                raise ValueError(f"{name} has shape {found}, not {right}")
        if n == 0 or m == 0 or len(set(self.models)) != m:
            raise ValueError(f"needs at least one prompt and distinct models, got {n} prompts and {self.models}")
        arrays = (self.points, self.metric.centre, self.metric.axes, self.quality, self.prior)
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("all arrays must be finite")


class KnnQuality:
    """Shrunken cosine kNN (:mod:`predictors.quality.neighbours`). Immutable, so safe to share between threads."""

    def __init__(self, bank: Bank, manifest: Manifest | None = None) -> None:
        self.bank = bank
        self.manifest = manifest
        self._guard = float(np.float32(max(bank.guard, bank.known)))
        self._known = float(np.float32(bank.known))
        self._scan = Scan(bank.metric, bank.points, bank.quality, bank.prior, bank.settings)

    @classmethod
    def load(cls, path: Path) -> KnnQuality:
        """Read an artifact.

        Raises:
            ArtifactError: it is missing, tampered with, or of another schema (:mod:`predictors.artifact`).
        """
        found = artifact.load(path, kind=KIND, features=FEATURES)
        return cls(decode(found.files, str(path)), found.manifest)

    @property
    def models_(self) -> tuple[str, ...]:
        """Names of the models, in the order of the columns."""
        return self.bank.models

    def predict(self, embeddings: Array) -> QualityScores:
        """Score unit-length prompt embeddings (n, 256), as :class:`predictors.embedding.Embedder` makes them."""
        queries = np.asarray(embeddings, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != DIMENSIONS or not np.isfinite(queries).all():
            raise ValueError(f"embeddings must be finite and (n, {DIMENSIONS}), got {queries.shape}")
        if not self._scan.usable or not 0 < len(queries) <= _FEW:
            return self._together(queries)
        rows = [self._alone(query) for query in queries]
        quality, known, familiarity = zip(*rows, strict=True)
        return QualityScores(np.array(quality), np.array(known), np.array(familiarity, dtype=np.float32))

    def predict_one(self, embedding: Array) -> tuple[list[float], bool]:
        """Quality (n_models,) and whether it is in distribution of one finite embedding (256,): the same, faster."""
        quality, known, _ = self._alone(embedding)
        return quality.tolist(), known

    def _together(self, queries: Array) -> QualityScores:
        bank = self.bank
        found = nearest(bank.metric(queries), bank.points, max(bank.settings.k, ANCHORS))
        familiarity = found.familiarity
        known = familiarity >= self._known
        return QualityScores(
            quality=estimate(found, bank.quality, bank.prior, bank.settings, self._guard),
            in_distribution=known,
            familiarity=familiarity,
        )

    def _alone(self, query: Array) -> tuple[Array, bool, float]:
        """Quality (M,), whether it is in distribution, and familiarity."""
        found = self._scan.judge(query) if self._scan.usable else None
        if found is None:
            whole = self._together(query[None])
            return whole.quality[0], bool(whole.in_distribution[0]), float(whole.familiarity[0])
        learned, familiarity = found
        quality = learned if familiarity >= self._guard else self.bank.prior
        return quality, familiarity >= self._known, familiarity

    def usd(self, prompt_tokens: ArrayLike, output_tokens: ArrayLike | None = None) -> NDArray[np.float64]:
        """Expected cost (n, n_models) in USD at list prices of prompts of ``prompt_tokens`` (n,).

        ``output_tokens`` is (n,) or (n, n_models); ``None`` means what each model was expected to write in training.
        """
        return query_usd(self.bank.prices, prompt_tokens, output_tokens)


def query_usd(
    prices: Sequence[Price], prompt_tokens: ArrayLike, output_tokens: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Cost (n, M) in USD of prompts of ``prompt_tokens`` (n,) and answers of ``output_tokens`` (n,) or (n, M)."""
    read = np.asarray(prompt_tokens, dtype=np.float64)[:, None]
    expected = np.array([[price.output_tokens for price in prices]])
    written = expected if output_tokens is None else np.asarray(output_tokens, dtype=np.float64)
    written = written[:, None] if written.ndim == 1 else written
    per_input = np.array([[price.input_usd_per_mtok for price in prices]])
    per_output = np.array([[price.output_usd_per_mtok for price in prices]])
    cost: NDArray[np.float64] = (read * per_input + written * per_output) / 1e6
    return cost


def encode(bank: Bank) -> dict[str, bytes]:
    """The artifact's files; :func:`decode` gives back the same bank, bit for bit."""
    document = {
        "models": list(bank.models),
        "prices": [asdict(price) for price in bank.prices],
        "settings": asdict(bank.settings),
        "guard": bank.guard,
        "known": bank.known,
    }
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        centre=bank.metric.centre,
        axes=bank.metric.axes,
        points=np.rint(bank.points / POINT_GRID).astype(np.int16),
        quality=bank.quality.astype(np.float16),
        prior=bank.prior,
    )
    return {_MODEL: json.dumps(document, indent=1, allow_nan=False).encode() + b"\n", _BANK: buffer.getvalue()}


def decode(files: Mapping[str, bytes], where: str = "artifact") -> Bank:
    """What :func:`encode` wrote.

    Raises:
        ArtifactSchema: the files do not have that shape; the message begins with ``where``.
    """
    try:
        document: Mapping[str, Any] = json.loads(files[_MODEL])
        with np.load(io.BytesIO(files[_BANK]), allow_pickle=False) as arrays:
            return _bank(document, arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise ArtifactSchema(f"{where}: not a kNN bank: {type(error).__name__}: {error}") from error


def _bank(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Bank:
    return Bank(
        models=tuple(str(name) for name in document["models"]),
        prices=tuple(Price(**price) for price in document["prices"]),
        settings=KnnSettings(**document["settings"]),
        guard=float(document["guard"]),
        known=float(document["known"]),
        metric=Metric(arrays["centre"].astype(np.float64), arrays["axes"].astype(np.float64)),
        points=arrays["points"].astype(np.float32) * np.float32(POINT_GRID),
        quality=arrays["quality"].astype(np.float32),
        prior=arrays["prior"].astype(np.float32),
    )
