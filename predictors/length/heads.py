"""Linear rankers in the features of the trend, by the loss they are fitted with: ridge, ListMLE, pairwise margin."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import ArtifactSchema
from predictors.embedding import DIMENSIONS
from predictors.length.basis import Basis
from predictors.length.data import LengthData
from predictors.length.estimator import embedded
from predictors.length.features import read
from predictors.length.model import ARRAYS_FILE, TABLES_FILE, decode_trend, trend_arrays, trend_tables
from predictors.length.target import Consensus, consensus
from predictors.length.train import FastSettings, fit_trend
from predictors.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeadSettings", "LinearHead", "listmle", "pairwise_margin"]

Matrix = NDArray[np.float64]
_LEAST_DIFFERENCE: Final = 0.2
"""Of two lengths, relative to the longer one, for a pair to count (PARS)."""


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Of the losses that are minimised by gradient: Adam with a linearly falling rate."""

    l2: float = 0.002
    rate: float = 0.05
    epochs: int = 100
    batch: int = 256
    list_size: int = 64
    seed: int = 0


class LinearHead:
    """After ``fit``: ``trend_``. ``loss`` is ``ridge``, ``listmle`` or ``margin``; the latter two need torch to fit."""

    embeds: ClassVar[bool] = True

    def __init__(self, loss: str = "ridge", settings: HeadSettings | None = None) -> None:
        self.loss = loss
        self.settings = settings

    def fit(self, data: LengthData, embeddings: NDArray[np.float32]) -> Self:
        """Learn from prompts and their embeddings (n, 256)."""
        readings, labels, kernel = read(data.prompts), consensus(data), FastSettings()
        if self.loss == "ridge":
            self.trend_ = fit_trend(readings, embeddings, labels, np.arange(len(data)), kernel)
        elif self.loss in _LOSSES:
            basis = Basis.of(readings, embeddings, kernel)
            weights = _minimise(basis.features(), labels, _LOSSES[self.loss], self.settings or HeadSettings())
            self.trend_ = basis.trend(np.zeros(2), np.column_stack([weights, weights]))
        else:
            raise ValueError(f"the loss is ridge, {' or '.join(_LOSSES)}, not {self.loss}")
        return self

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> Matrix:
        """Scores (n,)."""
        if not prompts:
            return np.empty(0)
        readings = read(prompts)
        places = self.trend_.place(readings, embedded(prompts, embeddings, DIMENSIONS))
        return np.asarray(self.trend_.predict(readings, places)[:, 1], dtype=np.float64)

    def export(self) -> dict[str, bytes]:
        """The trend."""
        tables = {"loss": self.loss, **trend_tables(self.trend_)}
        encoded = json.dumps(tables, ensure_ascii=False, allow_nan=False).encode()
        return {TABLES_FILE: encoded, ARRAYS_FILE: trend_arrays(self.trend_)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The inverse of :meth:`export`.

        Raises:
            ArtifactSchema: they are not such files.
        """
        try:
            tables = json.loads(files[TABLES_FILE])
            loaded = cls(str(tables["loss"]))
            loaded.trend_ = decode_trend(tables, files[ARRAYS_FILE])
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ArtifactSchema(f"not a linear head: {type(error).__name__}: {error}") from error
        return loaded


def listmle(scores: Tensor, log_tokens: Tensor, weight: Tensor, settings: HeadSettings) -> Tensor:
    """Negative log-likelihood of the true order of lists of ``list_size``, longest first, under Plackett and Luce's
    model (Xia et al. 2008), each place weighed by its prompt's weight."""
    import torch

    size = min(settings.list_size, len(scores))
    lists = len(scores) // size
    s, y, w = (values[: lists * size].view(lists, size) for values in (scores, log_tokens, weight))
    order = y.argsort(dim=1, descending=True, stable=True)
    s, w = s.gather(1, order), w.gather(1, order)
    return ((torch.logcumsumexp(s.flip(1), dim=1).flip(1) - s) * w).mean()


def pairwise_margin(scores: Tensor, log_tokens: Tensor, weight: Tensor, settings: HeadSettings) -> Tensor:
    """Mean of max(0, 1 − (s_i − s_j)) over pairs whose lengths differ by a fifth of the longer one or more (PARS)."""
    import torch

    apart = log_tokens[:, None] - log_tokens[None, :] >= -math.log(1.0 - _LEAST_DIFFERENCE)
    pairs = apart * weight[:, None] * weight[None, :]
    loss = torch.relu(1.0 - (scores[:, None] - scores[None, :])) * pairs
    return loss.sum() / pairs.sum().clamp(min=1e-9)


Loss = Callable[["Tensor", "Tensor", "Tensor", HeadSettings], "Tensor"]
_LOSSES: Final[Mapping[str, Loss]] = MappingProxyType({"listmle": listmle, "margin": pairwise_margin})


def _minimise(features: Matrix, labels: Consensus, loss: Loss, settings: HeadSettings) -> Matrix:
    """Weights (f,) of features (n, f)."""
    import torch

    x = torch.tensor(features, dtype=torch.float32)
    y, weight = (torch.tensor(values, dtype=torch.float32) for values in (labels.log_tokens, labels.weight))
    head = torch.zeros(x.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([head], lr=settings.rate)
    deal = torch.Generator().manual_seed(settings.seed)
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1.0 - epoch / settings.epochs)
        for rows in torch.split(torch.randperm(len(x), generator=deal), settings.batch):
            value = loss(x[rows] @ head, y[rows], weight[rows], settings) + settings.l2 / 2 * (head * head).sum()
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return head.detach().numpy().astype(np.float64)
