"""Ways of holding prompts out. Every split gives each row the number of the fold that holds it out.

:data:`NEVER` marks rows that are only ever trained on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictors.quality.table import Labelled

Folds = NDArray[np.intp]

NEVER: Final = -1
_ODD: Final = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: multiplying by it spreads bits well (Knuth 6.4)."""


class Split(StrEnum):
    """What is new about the held-out prompts."""

    IN_DOMAIN = "in_domain"
    """Only the prompts: their tasks were seen."""
    LEAVE_ONE_OUT = "leave_one_out"
    """Their tasks too."""
    TRANSFER = "transfer"
    """All of them come from elsewhere; the training rows are fixed."""


def by_content(data: Labelled, folds: int, salt: int = 0) -> Folds:
    """By hash of the prompt, so that equal prompts stay together; splits of different ``salt`` are independent."""
    mixed = (data.keys ^ np.uint64(salt * _ODD % 2**64)) * np.uint64(_ODD)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(_ODD)
    return ((mixed >> np.uint64(32)) % np.uint64(folds)).astype(np.intp)


def by_task(data: Labelled, folds: int) -> Folds:
    """A task a fold, or tasks dealt into ``folds`` of about the same size (the largest first) where there are more."""
    names, of_row, sizes = np.unique(data.tasks, return_inverse=True, return_counts=True)
    if len(names) <= folds:
        return of_row.astype(np.intp)
    load = np.zeros(folds)
    fold_of = np.zeros(len(names), dtype=np.intp)
    for task in np.argsort(-sizes, kind="stable"):
        fold_of[task] = int(np.argmin(load))
        load[fold_of[task]] += sizes[task]
    return fold_of[of_row]


def split(data: Labelled, how: Split, folds: int, salt: int = 0) -> Folds:
    """The folds of a split that deals out the rows by itself, which ``TRANSFER`` does not."""
    if how is Split.TRANSFER:
        raise ValueError("a transfer needs its training rows named")
    return by_content(data, folds, salt) if how is Split.IN_DOMAIN else by_task(data, folds)
