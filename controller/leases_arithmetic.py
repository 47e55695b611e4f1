"""Dividing slots: fairly between tenants, in proportion between members, in whole numbers, evenly over workers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Rounding", "apportion", "entitlements", "lay_out", "max_min"]

_EPSILON = 1e-9
_SMALL = 0.01


def max_min(capacity: float, demands: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted max-min fair shares: nobody gets more than it demands, and what one leaves is the others' by weight."""
    shares = dict.fromkeys(demands, 0.0)
    left = capacity
    heavy = sum(weights[name] for name, demand in demands.items() if demand > 0)
    for name in sorted(demands, key=lambda name: (demands[name] / weights[name], name)):
        demand, weight = demands[name], weights[name]
        if demand > 0:
            shares[name] = min(demand, left * weight / heavy) if heavy > _EPSILON else min(demand, left)
            left = max(0.0, left - shares[name])
            heavy -= weight
    return shares


def entitlements(
    capacity: int, demands: Mapping[str, Mapping[str, float]], weights: Mapping[str, float], least: int = 8
) -> dict[str, float]:
    """Each member's part of a pool's slots, which add up to ``capacity``.

    ``demands`` is member → tenant → requests in flight and queued. Tenants get their weighted max-min share of all; a
    member gets of each tenant's share as much as it has of that tenant's demand. What nobody demands is spread evenly,
    so that whoever is asked next may start at once; for the same reason everybody has one slot where there are
    ``least`` times as many slots as members.
    """
    if not demands:
        return {}
    totals: dict[str, float] = {}
    for wanted in demands.values():
        for tenant, demand in wanted.items():
            totals[tenant] = totals.get(tenant, 0.0) + demand
    shares = max_min(capacity, totals, weights)
    idle = max(0.0, capacity - sum(shares.values())) / len(demands)
    entitled = {
        member: idle + sum(shares[tenant] * demand / totals[tenant] for tenant, demand in wanted.items() if demand > 0)
        for member, wanted in demands.items()
    }
    return _lifted(entitled, 1.0) if capacity >= least * len(demands) else entitled


def apportion(total: int, wishes: Mapping[str, float], credit: Mapping[str, float] | None = None) -> dict[str, int]:
    """Whole numbers near the wishes (which add up to ``total``) that add up to it exactly: largest remainders first,
    and with ``credit``, what was rounded away earlier on top of them."""
    credit = credit or {}
    whole = {name: math.floor(wish + _EPSILON) for name, wish in wishes.items()}
    order = sorted(wishes, key=lambda name: (whole[name] - wishes[name] - credit.get(name, 0.0), name))
    left = total - sum(whole.values())
    for i in range(abs(left) if order else 0):
        name = order[i % len(order)] if left > 0 else max(whole, key=lambda name: (whole[name], name))
        whole[name] += 1 if left > 0 else -1
    return whole


@dataclass(slots=True)
class Rounding:
    """Rounds the wishes of one pool again and again, so that over time everybody gets what it wished, not only in whole
    numbers: what is lost by rounding is a credit. Changes of the wishes of less than a half, or
    of 1 % of all, change nothing before ``turn_s``."""

    turn_s: float = 1.0
    _wishes: dict[str, float] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)
    _credit: dict[str, float] = field(default_factory=dict)
    _total: int = -1
    _since: float = 0.0
    _at: float = 0.0

    def __call__(self, total: int, wishes: Mapping[str, float], now: float) -> dict[str, int]:
        """Whole numbers that add up to ``total``, as the wishes must."""
        passed = min(self.turn_s, max(0.0, now - self._at)) / self.turn_s
        self._at = now
        for name in wishes:
            missed = self._wishes.get(name, 0.0) - self._given.get(name, 0)
            self._credit[name] = min(1.0, max(-1.0, self._credit.get(name, 0.0) + missed * passed))
        if self._stands(total, wishes, now):
            return dict(self._given)
        self._credit = {name: self._credit[name] for name in wishes}
        self._wishes, self._total, self._since = dict(wishes), total, now
        self._given = apportion(total, wishes, self._credit)
        return dict(self._given)

    def _stands(self, total: int, wishes: Mapping[str, float], now: float) -> bool:
        if total != self._total or wishes.keys() != self._wishes.keys() or now - self._since >= self.turn_s:
            return False
        small = max(0.5, _SMALL * total)
        return all(abs(wish - self._wishes[name]) < small for name, wish in wishes.items())


def lay_out(capacities: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Deal the slots of several workers to members that get so many each: member → worker → slots.

    The workers' slots are shuffled evenly into one row, of which each member takes a run; so everybody has its part of
    every worker, to within one or two slots, and a small change of ``counts`` moves few slots. The counts add up to the
    capacities, or to less.
    """
    keys = np.concatenate([(np.arange(size) + 0.5) / size for size in capacities] or [np.zeros(0)])
    owners = np.repeat(np.arange(len(capacities)), capacities)[np.argsort(keys, kind="stable")]
    bounds = np.cumsum([0, *counts])
    return [
        np.bincount(owners[begin:end], minlength=len(capacities)).tolist() for begin, end in itertools.pairwise(bounds)
    ]


def _lifted(wishes: Mapping[str, float], least: float) -> dict[str, float]:
    """The same sum with nobody below ``least``; those above it pay in proportion to what they have above."""
    missing = sum(max(0.0, least - wish) for wish in wishes.values())
    above = sum(max(0.0, wish - least) for wish in wishes.values())
    if not missing or above <= 0:
        return dict(wishes)
    keep = max(0.0, 1.0 - missing / above)
    return {name: least + max(0.0, wish - least) * keep for name, wish in wishes.items()}
