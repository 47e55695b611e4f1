"""Counters and histograms for one thread: a fraction of a microsecond each, where prometheus_client's own take several.

They are read by prometheus_client's registry like its own, and written in the event loop only. None has more than
:data:`MOST` combinations of labels' values: what comes beyond counts as ``other`` in every label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import inf
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["MOST", "Count", "Counter", "Distribution", "Histogram", "Level"]

MOST: Final = 1000
_BEYOND: Final = "other"


class Count:
    """One counter's value."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        """It never falls."""
        self.value += by


class Level:
    """How many there are of what comes and goes."""

    __slots__ = ("now", "total")

    def __init__(self) -> None:
        self.now = 0
        self.total = 0
        """Those that have gone included."""

    def enter(self) -> None:
        """One more."""
        self.now += 1
        self.total += 1

    def leave(self) -> None:
        """One less."""
        self.now -= 1


class Distribution:
    """One histogram's observations."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """A value equal to a bound is below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


Child = TypeVar("Child", Count, Distribution)


class _Labelled(Collector, Generic[Child]):
    """Children by labels' values; those without labels are there from the start."""

    def __init__(
        self, name: str, help_: str, labels: Sequence[str], make: Callable[[], Child], registry: CollectorRegistry
    ) -> None:
        self._name, self._help, self._labels = name, help_, tuple(labels)
        self._make: Callable[[], Child] = make
        self._children: dict[tuple[str, ...], Child] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """The child of these labels' values, in the order of their names."""
        child = self._children.get(values)
        if child is None:
            _check(self._labels, values)
            if len(self._children) >= MOST:
                values = (_BEYOND,) * len(values)
                child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._make()
        return child


class Counter(_Labelled[Count]):
    """Counters by labels."""

    def __init__(self, name: str, help_: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        super().__init__(name, help_, labels, Count, registry)

    def describe(self) -> Iterable[Metric]:
        """Without any value."""
        return [CounterMetricFamily(self._name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """As it stands."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        return [family]


class Histogram(_Labelled[Distribution]):
    """Histograms by labels; ``buckets`` are ascending upper bounds, without the infinite one."""

    def __init__(
        self,
        name: str,
        help_: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        bounds = (*buckets, inf)
        self._shown = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        super().__init__(name, help_, labels, lambda: Distribution(bounds), registry)

    def describe(self) -> Iterable[Metric]:
        """Without any value."""
        return [HistogramMetricFamily(self._name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """As it stands."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, child in self._children.items():
            buckets = list(zip(self._shown, map(float, accumulate(child.counts)), strict=True))
            family.add_metric(values, buckets, child.total)
        return [family]


def _check(names: tuple[str, ...], values: tuple[str, ...]) -> None:
    if len(names) != len(values):
        raise ValueError(f"{len(values)} values for the labels {', '.join(names) or 'of none'}")
