"""Training ``deep``: the head on an encoder's features, and its calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from predictors.length.data import LengthData, LengthDataError
from predictors.length.deep.head import Head, fit_head
from predictors.length.deep.model import DeepLength
from predictors.length.model import LengthScores
from predictors.length.target import consensus, typical_answers
from predictors.length.train import calibrate, grouped_folds, splits
from predictors.types import Prompt

Matrix = NDArray[np.float64]
_LEAST_PROMPTS = 20


@dataclass(frozen=True, slots=True)
class DeepSettings:
    """Hyper-parameters of :class:`DeepRanker`; the ridge's strength is chosen by leaving one prompt out."""

    inner_folds: int = 5
    bins: int = 16
    """Pieces of the map from score to expected tokens."""
    seed: int = 0


def calibrated_head(
    head: Head, data: LengthData, features: NDArray[np.floating], encoder: str, settings: DeepSettings | None = None
) -> DeepLength:
    """What serves, from a head that fine-tuning left, calibrated on prompts that are new to it and their features.

    Raises:
        LengthDataError: nothing tells the prompts apart.
    """
    bins = (settings or DeepSettings()).bins
    return DeepLength(head, calibrate(head.score(features), consensus(data), bins, typical_answers(data)), encoder)


class DeepRanker:
    """Learns a head. After ``fit``: ``model_`` (what serves) and ``out_of_fold_`` (n,), the inner folds' scores.

    The calibration is from those scores, so the prompts must be new to the encoder: where it was fine-tuned, fit on
    prompts that the tuning did not see.
    """

    embeds: ClassVar[bool] = True

    def __init__(self, settings: DeepSettings | None = None, encoder: str = "") -> None:
        """``encoder`` is the digest of the one whose features are given."""
        self.settings, self.encoder = settings, encoder

    def fit(self, data: LengthData, features: NDArray[np.floating]) -> Self:
        """Learn from prompts and their features (n, d).

        Raises:
            LengthDataError: there are too few prompts, nothing tells them apart, or a feature is not finite.
        """
        settings = self.settings or DeepSettings()
        if len(set(data.groups)) < _LEAST_PROMPTS:
            raise LengthDataError(f"{len(set(data.groups))} distinct prompts are too few; {_LEAST_PROMPTS} are needed")
        if features.ndim != 2 or len(features) != len(data) or not np.isfinite(features).all():
            raise LengthDataError(f"{len(data)} prompts need as many rows of finite features, not {features.shape}")
        labels = consensus(data)
        self.out_of_fold_ = np.empty(len(data))
        for train, test in splits(grouped_folds(data.groups, settings.inner_folds, settings.seed)):
            part = fit_head(features[train], labels.level[train], labels.weight[train])
            self.out_of_fold_[test] = part.score(features[test])
        head = fit_head(features, labels.level, labels.weight)
        calibration = calibrate(self.out_of_fold_, labels, settings.bins, typical_answers(data))
        self.model_ = DeepLength(head, calibration, self.encoder)
        return self

    def predict(self, prompts: Sequence[Prompt], features: NDArray[np.floating]) -> LengthScores:
        """What :class:`DeepLength` predicts."""
        return self.model_.predict(prompts, features)

    def rank(self, prompts: Sequence[Prompt], features: NDArray[np.floating]) -> Matrix:
        """Only the ranks (n,) of :meth:`predict`."""
        return self.predict(prompts, features).rank

    def export(self) -> dict[str, bytes]:
        """The files of an artifact."""
        return self.model_.export()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """A fitted ranker from :meth:`export`; of what ``fit`` learns it has ``model_`` only.

        Raises:
            ArtifactSchema: the files are not such an export.
        """
        model = DeepLength.from_files(files)
        loaded = cls(encoder=model.encoder)
        loaded.model_ = model
        return loaded
