"""What is asked: lengths as drawn from, tasks in order, and mixes that drift when they should."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from envs.tasks import Split, generate, stream
from envs.workloads import (
    Arrival,
    Blend,
    EmpiricalLengths,
    GivenTasks,
    Histogram,
    Lengths,
    LengthSource,
    LogNormalLengths,
    Poisson,
    RequestSource,
    Scaled,
    Source,
    TaskSource,
    Trend,
    arrivals,
)

SHORT, LONG = LengthSource((Lengths(10, 20),)), LengthSource((Lengths(1000, 200),))


def sizes(source: Source, count: int, rate: float = 10.0, seed: int = 1) -> list[tuple[float, Lengths]]:
    rows = list(arrivals(Poisson(rate), source, seed, count=count))
    return [(row.at, row.lengths) for row in rows if row.lengths is not None]


def drawn(source: RequestSource, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    requests = islice(source.requests(np.random.default_rng(2)), count)
    return np.asarray([(one.prompt_tokens, one.output_tokens) for one in requests if isinstance(one, Lengths)])


def test_tasks_come_in_the_order_of_their_stream_so_that_a_book_can_hold_them() -> None:
    rows = list(arrivals(Poisson(5.0), TaskSource(9, Split.TEST), 1, count=30))
    assert [row.task for row in rows] == list(islice(stream(9, "test"), 30))
    listed = tuple(generate(9, 4, "test"))
    again = [row.task for row in arrivals(Poisson(5.0), GivenTasks(listed), 1, count=6)]
    assert again == [*listed, *listed[:2]]


def test_log_normal_lengths_have_their_medians_spread_and_correlation() -> None:
    found = drawn(LogNormalLengths(500.0, 100.0, prompt_sigma=0.8, output_sigma=0.5, correlation=0.7), 8000)
    assert np.median(found, axis=0) == pytest.approx([500, 100], rel=0.05)
    logs = np.log(found)
    assert logs.std(axis=0) == pytest.approx([0.8, 0.5], rel=0.05)
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0.7, abs=0.03)


def test_log_normal_lengths_keep_to_their_limits() -> None:
    found = drawn(LogNormalLengths(500.0, 2.0, 3.0, 3.0, longest_prompt=600, longest_output=50), 2000)
    assert found.min() == 1
    assert tuple(found.max(axis=0)) == (600, 50)


def test_histograms_give_their_counts_as_often_as_they_weigh() -> None:
    source = EmpiricalLengths(Histogram((5, 7, 9), (3.0, 1.0, 0.0)), Histogram((100,), (2.0,)))
    found = drawn(source, 4000)
    assert set(found[:, 0]) == {5, 7}
    assert np.mean(found[:, 0] == 5) == pytest.approx(0.75, abs=0.03)
    assert set(found[:, 1]) == {100}


def test_a_trace_is_resampled_uniformly_however_long_it_is() -> None:
    trace = (Arrival(float(i), lengths=Lengths(i + 1, 1, (i,), 1)) for i in range(5000))
    source = LengthSource.sampled(trace, at_most=400, seed=3)
    kept = [one.prompt_tokens for one in source.lengths]
    assert len(set(kept)) == 400
    assert np.mean(kept) == pytest.approx(2500, rel=0.1)
    assert not any(one.prefix for one in source.lengths)
    few = LengthSource.sampled([Arrival(0.0, lengths=Lengths(3, 4))], at_most=400)
    assert few.lengths == (Lengths(3, 4),)


def test_a_blend_drifts_from_one_source_to_the_other() -> None:
    found = sizes(Blend(SHORT, LONG, Trend(0.0, 1.0, 100.0, 300.0)), 4000)
    share = [
        np.mean([one == Lengths(1000, 200) for at, one in found if low <= at < low + 50]) for low in range(0, 400, 50)
    ]
    assert share[:2] == [0.0, 0.0]
    assert share[2:6] == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.08)
    assert share[6:] == [1.0, 1.0]


def test_a_blend_of_tasks_changes_what_is_asked_at_once() -> None:
    families = tuple(sorted({task.family for task in generate(1, 200, "test")}))[:2]
    early, late = (TaskSource(1, families=(family,)) for family in families)
    rows = list(arrivals(Poisson(10.0), Blend(early, late, Trend(0.0, 1.0, 5.0, 5.0)), 1, count=100))
    asked = {(row.at >= 5.0, row.task.family) for row in rows if row.task is not None}
    assert asked == {(False, families[0]), (True, families[1])}


def test_lengths_grow_along_a_trend_and_each_side_by_itself() -> None:
    found = sizes(Scaled(LONG, prompt=Trend(1.0, 3.0, 0.0, 100.0), output=Trend(1.0, 0.5, 50.0, 50.0)), 2000)
    for at, one in found:
        assert one.prompt_tokens == pytest.approx(1000 * (1 + 2 * min(at, 100.0) / 100), abs=1)
        assert one.output_tokens == (200 if at < 50.0 else 100)


def test_drift_leaves_the_times_and_what_came_before_it_as_they_were() -> None:
    still = sizes(LogNormalLengths(100.0, 50.0), 500)
    moved = sizes(Scaled(LogNormalLengths(100.0, 50.0), output=Trend(1.0, 4.0, 20.0, 20.0)), 500)
    assert [at for at, _ in still] == [at for at, _ in moved]
    assert [row for row in still if row[0] < 20.0] == [row for row in moved if row[0] < 20.0]


def test_tasks_have_no_lengths_to_scale() -> None:
    with pytest.raises(TypeError, match="LengthSource"):
        list(arrivals(Poisson(1.0), Scaled(TaskSource(1)), 1, count=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthSource(()),
        lambda: GivenTasks(()),
        lambda: LogNormalLengths(0.0, 5.0),
        lambda: LogNormalLengths(5.0, 5.0, correlation=2.0),
        lambda: Histogram((), ()),
        lambda: Histogram((1, 2), (1.0,)),
        lambda: Histogram((0,), (1.0,)),
        lambda: Histogram((1,), (0.0,)),
        lambda: Trend(1.0, 2.0, 5.0, 4.0),
        lambda: Blend(SHORT, LONG, Trend(0.0, 1.5, 0.0, 1.0)),
        lambda: Scaled(SHORT, prompt=Trend(1.0, 0.0, 0.0, 1.0)),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
