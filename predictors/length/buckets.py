"""The classifier of S³ (Jin et al. 2023): which of ten equally wide buckets of lengths an answer falls into.

There a language model's features go into a softmax; here WordLlama's embedding and the lexical features do, as for the
other rankers. What it ranks by is the bucket, so most prompts are tied.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from predictors.artifact import ArtifactSchema
from predictors.embedding import DIMENSIONS
from predictors.length.data import LengthData
from predictors.length.estimator import embedded
from predictors.length.features import FEATURES, read
from predictors.length.target import consensus
from predictors.length.trend import standardise
from predictors.types import Prompt

__all__ = ["BucketRanker"]

Matrix = NDArray[np.float64]
_FILE: Final = "buckets.npz"
_ARRAYS: Final = ("mean", "scale", "weights")


class BucketRanker:
    """After ``fit``: ``mean_`` and ``scale_`` (F,) of the lexical features, and ``weights_`` (256 + F + 1, buckets)."""

    embeds: ClassVar[bool] = True

    def __init__(self, buckets: int = 10, l2: float = 1.0) -> None:
        self.buckets = buckets
        self.l2 = l2

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Softmax regression of the bucket of each prompt's consensus length, by L-BFGS."""
        lexical, labels = read(data.prompts).lexical, consensus(data)
        self.mean_, self.scale_ = lexical.mean(axis=0, dtype=np.float64), lexical.std(axis=0, dtype=np.float64)
        self.scale_[self.scale_ < 1e-9] = 0.0
        x = _columns(lexical, embeddings, self.mean_, self.scale_)
        tokens = np.exp(labels.log_tokens)
        bucket = np.minimum((tokens / tokens.max() * self.buckets).astype(np.intp), self.buckets - 1)
        one_hot = np.eye(self.buckets)[bucket]

        def loss(flat: Matrix) -> tuple[float, Matrix]:
            w = flat.reshape(x.shape[1], self.buckets)
            logs = log_softmax(x @ w, axis=1)
            error = (np.exp(logs) - one_hot) * labels.weight[:, None]
            value = -float((labels.weight * logs[np.arange(len(x)), bucket]).sum()) + self.l2 / 2 * float((w * w).sum())
            return value, (x.T @ error + self.l2 * w).ravel()

        start = np.zeros(x.shape[1] * self.buckets)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        self.weights_: Matrix = found.x.reshape(x.shape[1], self.buckets)
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """The likeliest bucket (n,), from 0."""
        if not prompts:
            return np.empty(0)
        x = _columns(read(prompts).lexical, embedded(prompts, embeddings, DIMENSIONS), self.mean_, self.scale_)
        scores = np.vecdot(x[:, None, :], np.ascontiguousarray(self.weights_.T)[None, :, :])
        return np.asarray(np.argmax(scores, axis=1), dtype=np.float64)

    def export(self) -> dict[str, bytes]:
        """The arrays, as npz."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{name: getattr(self, f"{name}_") for name in _ARRAYS})
        return {_FILE: buffer.getvalue()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The inverse of :meth:`export`.

        Raises:
            ArtifactSchema: they are not such files.
        """
        try:
            with np.load(io.BytesIO(files[_FILE]), allow_pickle=False) as stored:
                arrays = {name: np.asarray(stored[name], dtype=np.float64) for name in _ARRAYS}
            if arrays["weights"].ndim != 2 or arrays["weights"].shape[0] != DIMENSIONS + len(FEATURES) + 1:
                raise ValueError(f"its weights are {arrays['weights'].shape}")
            loaded = cls(arrays["weights"].shape[1])
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ArtifactSchema(f"not a classifier of lengths: {type(error).__name__}: {error}") from error
        loaded.mean_, loaded.scale_, loaded.weights_ = (arrays[name] for name in _ARRAYS)
        return loaded


def _columns(lexical: NDArray[np.float32], embeddings: NDArray[np.float32], mean: Matrix, scale: Matrix) -> Matrix:
    """Features of about unit variance, and a constant (n, 256 + F + 1)."""
    return np.hstack(
        [embeddings * math.sqrt(DIMENSIONS), standardise(lexical, mean, scale), np.ones((len(lexical), 1))]
    )
