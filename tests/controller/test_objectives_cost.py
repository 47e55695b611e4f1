from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import PhaseChange, PhaseSpan, dollars, gpu_hours, spans
from controller.types import WorkerPhase

STARTING, READY, SLEEPING = WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.SLEEPING
DAY = [
    PhaseSpan("a", STARTING, 0.0, 360.0, gpus=2.0, usd_per_hour=5.0),
    PhaseSpan("a", READY, 360.0, 7200.0, gpus=2.0, usd_per_hour=5.0),
    PhaseSpan("b", SLEEPING, 0.0, 3600.0, gpus=1.0, usd_per_hour=2.5),
]


def test_by_hand() -> None:
    assert gpu_hours(DAY) == pytest.approx(2 * 2 + 1)
    assert dollars(DAY) == pytest.approx(2 * 5 + 2.5)


def test_only_what_is_billed_counts() -> None:
    assert gpu_hours(DAY, billed={STARTING, READY}) == pytest.approx(4.0)
    assert dollars(DAY, billed={SLEEPING}) == pytest.approx(2.5)
    assert gpu_hours([]) == dollars([]) == 0.0


def test_a_span_of_no_length_costs_nothing() -> None:
    assert dollars([PhaseSpan("a", READY, 5.0, 5.0, usd_per_hour=9.0)]) == 0.0


def test_phases_become_spans() -> None:
    changes = [
        PhaseChange(0.0, "a", STARTING),
        PhaseChange(10.0, "b", READY),
        PhaseChange(60.0, "a", READY),
        PhaseChange(100.0, "a", None),
        PhaseChange(200.0, "a", READY),
    ]
    found = spans(changes, 300.0, gpus={"a": 2.0}, usd_per_hour={"a": 7.2})
    assert sorted((s.worker, s.phase, s.start, s.end) for s in found) == [
        ("a", READY, 60.0, 100.0),
        ("a", READY, 200.0, 300.0),
        ("a", STARTING, 0.0, 60.0),
        ("b", READY, 10.0, 300.0),
    ]
    assert gpu_hours(found) == pytest.approx((200 * 2 + 290) / 3600)
    assert dollars(found) == pytest.approx(200 * 7.2 / 3600)


@pytest.mark.parametrize(
    "changes",
    [
        [PhaseChange(5.0, "a", READY), PhaseChange(4.0, "a", SLEEPING)],
        [PhaseChange(11.0, "a", READY)],
        [PhaseChange(5.0, "a", None), PhaseChange(4.0, "a", READY)],
    ],
)
def test_changes_come_in_order(changes: list[PhaseChange]) -> None:
    with pytest.raises(ValueError, match="a: "):
        spans(changes, 10.0)


@pytest.mark.parametrize(
    ("start", "end", "more"),
    [
        (2.0, 1.0, {}),
        (0.0, math.inf, {}),
        (math.nan, 1.0, {}),
        (0.0, 1.0, {"gpus": -1}),
        (0.0, 1.0, {"usd_per_hour": -1}),
    ],
)
def test_spans_that_cannot_be(start: float, end: float, more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a: "):
        PhaseSpan("a", READY, start, end, **more)


def test_no_time_is_billed_twice() -> None:
    twice = [PhaseSpan("a", READY, 0.0, 10.0), PhaseSpan("b", READY, 0.0, 10.0), PhaseSpan("a", SLEEPING, 9.0, 11.0)]
    for figure in (gpu_hours, dollars):
        with pytest.raises(ValueError, match="overlap"):
            figure(twice)


@given(st.lists(st.floats(0.0, 1e5), min_size=2, max_size=8), st.floats(0.0, 100.0))
def test_cutting_a_span_changes_no_bill(times: list[float], price: float) -> None:
    edges = sorted(times)
    whole = [PhaseSpan("a", READY, edges[0], edges[-1], usd_per_hour=price)]
    pieces = [PhaseSpan("a", READY, a, b, usd_per_hour=price) for a, b in pairwise(edges)]
    assert dollars(pieces) == pytest.approx(dollars(whole))
    assert gpu_hours(pieces) == pytest.approx(gpu_hours(whole))
