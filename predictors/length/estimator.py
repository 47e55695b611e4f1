"""What all length predictors have in common, learned or plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from predictors.length.data import LengthData
from predictors.types import Prompt

__all__ = ["LengthEstimator", "embedded"]

Matrix = NDArray[np.float64]


class LengthEstimator(Protocol):
    """Learns to order prompts by the length of their answers.

    ``embeddings`` (n, d) are of the prompts' texts: those of :class:`predictors.embedding.Embedder`, or whatever else
    the estimator was made for (``deep`` reads hidden states of a language model). ``embeds`` says whether it reads them
    at all. A prompt's score depends on the prompt only, not on those beside it.
    """

    embeds: ClassVar[bool]

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn; sets attributes that end in ``_``."""
        ...

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,), finite, higher = longer, on any scale. Pure. A greater ``max_tokens`` never lowers them."""
        ...

    def export(self) -> dict[str, bytes]:
        """What was learned, as files; no pickle."""
        ...

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """One that ranks the same bits as the exported one.

        Raises:
            ArtifactSchema: the files are not such an export.
        """
        ...


def embedded(prompts: Sequence[Prompt], embeddings: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The embeddings, if they are as many as prompts and of so many dimensions; else ValueError."""
    if embeddings.shape != (len(prompts), dimensions):
        shape = (len(prompts), dimensions)
        raise ValueError(f"{len(prompts)} prompts need embeddings {shape}, not {embeddings.shape}")
    return embeddings
