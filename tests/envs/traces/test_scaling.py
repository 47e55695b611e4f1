"""Replays at another speed, as streams."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from envs.traces import Span, at_rate, open_trace, span_of, stretched
from envs.workloads import Arrival, Lengths
from tests.envs.traces.files import SAMPLES, putting
from tests.envs.workloads.memory import growth

ROWS = [Arrival(at, lengths=Lengths(3, 4), deadline_s=2.0) for at in (0.0, 1.0, 1.5, 4.0)]


def test_times_scale_by_a_factor_and_deadlines_do_not() -> None:
    scaled = list(stretched(ROWS, 0.5))
    assert [row.at for row in scaled] == [0.0, 0.5, 0.75, 2.0]
    assert {row.deadline_s for row in scaled} == {2.0}


def test_times_scale_to_a_mean_rate() -> None:
    assert span_of(ROWS) == Span(4, 4.0)
    assert [row.at for row in at_rate(ROWS, 3.0)] == [0.0, 0.25, 0.375, 1.0]


def test_an_opened_trace_is_read_twice_and_a_stream_needs_its_span(tmp_path: Path) -> None:
    trace = open_trace(putting(tmp_path)(*SAMPLES["azure"]))
    assert span_of(at_rate(trace, 4.0)).rate == pytest.approx(4.0)
    assert [row.at for row in at_rate(iter(ROWS), 3.0, Span(4, 4.0))][-1] == 1.0
    with pytest.raises(ValueError, match="span"):
        at_rate(iter(ROWS), 3.0)


def test_scaling_holds_nothing() -> None:
    endless = (Arrival(at / 10, lengths=ROWS[0].lengths) for at in count())
    assert growth(at_rate(endless, 3.0, Span(1_000_000, 100_000.0)), warm=100, then=20_000) < 20_000


@pytest.mark.parametrize("rows", [[], ROWS[:1], [ROWS[0], ROWS[0]]])
def test_a_rate_needs_two_moments(rows: list[Arrival]) -> None:
    with pytest.raises(ValueError, match="two arrivals"):
        at_rate(rows, 4.0)


def test_senseless_speeds_are_refused() -> None:
    with pytest.raises(ValueError):
        stretched(ROWS, 0.0)
    with pytest.raises(ValueError):
        at_rate(ROWS, -1.0)
