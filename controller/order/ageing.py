"""How waiting is weighed against length: each rule turns a cost into seconds that are added to the arrival.

A heap compares keys of different moments, so that ageing has to be in the key itself: a virtual deadline, which stays
as it is while its request waits. Whoever arrives after it is behind.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from enum import StrEnum
from typing import Final


class Ageing(StrEnum):
    """The rules."""

    RELATIVE = "relative"
    """About in proportion to the expected cost, at most ``patience_s``: what is long accepts to wait long."""
    QUANTILE = "quantile"
    """``patience_s`` times the request's rank among those scored lately; the predictor's unit does not matter."""
    EXPONENTIAL = "exponential"
    """A cost counts 10 % less for every 30 s of waiting, up to ``patience_s`` (TIE, arXiv 2604.00499)."""
    NONE = "none"
    """Shortest first whatever the wait: nothing bounds how long a request is overtaken."""


E_FOLD_S: Final = 30.0 / math.log(1.0 / 0.9)
"""Seconds that one e-fold of the cost is worth where it is multiplied by 0.9 every 30 s."""


def relative_s(cost: float, s_per_token: float, patience_s: float) -> float:
    """``s_per_token`` seconds a token at first, and never ``patience_s``: a cut there would put all long ones in order
    of arrival."""
    return -patience_s * math.expm1(-s_per_token * cost / patience_s)


def exponential_s(cost: float, patience_s: float) -> float:
    """cost·0.9^(wait / 30 s) orders at any moment as arrival + τ·ln(cost) does, with τ = 30 s / ln(1 / 0.9)."""
    return min(patience_s, E_FOLD_S * math.log(max(1.0, cost)))


class Quantiles:
    """The rank of a value among the last ``window``, in [0, 1]."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._sorted: list[float] = []
        self._recent: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._sorted)

    def place(self, value: float) -> float:
        """Its quantile among those before it, which it joins."""
        values, recent = self._sorted, self._recent
        below = bisect_left(values, value)
        after = bisect_right(values, value, below)
        quantile = (below + (after - below + 1) / 2) / (len(values) + 1)
        values.insert(after, value)
        recent.append(value)
        if len(recent) > self._window:
            del values[bisect_left(values, recent.popleft())]
        return quantile
