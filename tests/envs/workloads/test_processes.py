"""Arrival processes: seeded, ordered, at the rates and as bursty as asked, in no more memory than a state."""

from __future__ import annotations

from itertools import islice, pairwise, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workloads import (
    MMPP,
    ArrivalProcess,
    Bursty,
    Diurnal,
    Gamma,
    Poisson,
    Ramp,
    Sinusoid,
    Step,
    Superposition,
)
from tests.envs.workloads.memory import growth

PROCESSES: list[ArrivalProcess] = [
    Poisson(4.0),
    Gamma(4.0, cv=2.0),
    Gamma(4.0, cv=0.5),
    Bursty(4.0, 8.0, ((1000.0, 1001.0),)),
    MMPP((2.0, 6.0), (5.0, 5.0)),
    MMPP((0.0, 4.0, 8.0), (3.0, 3.0, 3.0)),
    Ramp(0.0, 4.0, 5.0),
    Step(((0.0, 0.0), (3.0, 4.0))),
    Sinusoid(4.0, depth=1.0, period=20.0),
    Diurnal((2.0, 6.0), period=30.0),
    Superposition((Poisson(1.0), Gamma(3.0, cv=1.5))),
]


def times(process: ArrivalProcess, seed: int, count: int) -> list[float]:
    return list(islice(process.times(np.random.default_rng(seed)), count))


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_times_ascend_repeat_with_the_seed_and_have_the_rate(process: ArrivalProcess) -> None:
    drawn = times(process, 7, 4000)
    assert drawn == times(process, 7, 4000)
    assert drawn != times(process, 8, 4000)
    assert drawn[0] >= 0
    assert all(a <= b for a, b in pairwise(drawn))
    assert 4000 / drawn[-1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 5.0])
def test_gamma_gaps_have_the_coefficient_of_variation(cv: float) -> None:
    gaps = np.diff(times(Gamma(3.0, cv), 1, 20_000))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_the_burstiest_gamma_still_has_its_rate_and_its_variation() -> None:
    gaps = np.diff(times(Gamma(3.0, 15.0), 1, 200_000))
    assert 1 / gaps.mean() == pytest.approx(3.0, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(15.0, rel=0.1)


def test_a_modulated_process_is_as_fast_as_its_state_and_its_states_last_as_long_as_asked() -> None:
    process = MMPP((1.0, 50.0), (20.0, 5.0))
    assert process.rate == pytest.approx((20 * 1 + 5 * 50) / 25)
    drawn = np.asarray(times(process, 3, 40_000))
    assert len(drawn) / drawn[-1] == pytest.approx(process.rate, rel=0.1)
    counts = np.histogram(drawn, bins=np.arange(0.0, drawn[-1], 1.0))[0]
    assert np.mean(counts > 20) == pytest.approx(5 / 25, rel=0.15)
    assert counts.var() / counts.mean() > 10


def test_moves_say_which_state_follows() -> None:
    around = MMPP((0.0, 5.0, 20.0), (1.0, 1.0, 1.0), ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)))
    mostly_still = MMPP((0.0, 5.0, 20.0), (1.0, 1.0, 1.0), ((0.0, 0.9, 0.1), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    assert around.rate == pytest.approx(25 / 3)
    assert mostly_still.rate == pytest.approx(0.5 * (0.9 * 5 + 0.1 * 20))
    drawn = times(mostly_still, 1, 10_000)
    assert len(drawn) / drawn[-1] == pytest.approx(mostly_still.rate, rel=0.1)


def test_bursts_come_when_and_as_strong_as_asked() -> None:
    process = Bursty(2.0, 12.0, ((100.0, 200.0),))
    drawn = list(takewhile(lambda at: at < 300.0, process.times(np.random.default_rng(3))))
    inside = sum(100 <= at < 200 for at in drawn)
    assert inside / 100 == pytest.approx(12.0, rel=0.1)
    assert (len(drawn) - inside) / 200 == pytest.approx(2.0, rel=0.15)


@given(
    edges=st.lists(st.floats(0, 50), min_size=2, max_size=6, unique=True).filter(lambda e: len(e) % 2 == 0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_bursty_times_always_ascend(edges: list[float], seed: int) -> None:
    ordered = sorted(edges)
    process = Bursty(1.0, 20.0, tuple(zip(ordered[::2], ordered[1::2], strict=True)))
    drawn = times(process, seed, 200)
    assert all(a <= b for a, b in pairwise(drawn))
    assert drawn[0] > 0


def test_a_superposition_is_all_its_parts_and_each_part_is_its_own() -> None:
    def parts(*processes: ArrivalProcess) -> list[set[float]]:
        streams = np.random.default_rng(5).spawn(len(processes))
        return [set(islice(p.times(s), 50)) for p, s in zip(processes, streams, strict=True)]

    both = set(times(Superposition((Poisson(1.0), Gamma(2.0, 3.0))), 5, 40))
    one, two = parts(Poisson(1.0), Gamma(2.0, 3.0))
    assert both <= one | two
    other = set(times(Superposition((Poisson(1.0), Poisson(9.0))), 5, 40))
    assert other & one
    assert not other & two


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_a_long_stream_holds_nothing_but_its_state(process: ArrivalProcess) -> None:
    assert growth(process.times(np.random.default_rng(1)), warm=1000, then=20_000) < 20_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: Poisson(0.0),
        lambda: Gamma(1.0, -1.0),
        lambda: Bursty(1.0, 2.0, ((5.0, 3.0),)),
        lambda: MMPP((1.0,), (1.0,)),
        lambda: MMPP((0.0, 0.0), (1.0, 1.0)),
        lambda: MMPP((1.0, 2.0), (1.0, 0.0)),
        lambda: MMPP((1.0, 2.0), (1.0, 1.0), ((0.5, 0.5), (1.0, 0.0))),
        lambda: MMPP((1.0, 2.0), (1.0, 1.0), ((0.0, 0.5), (1.0, 0.0))),
        lambda: Superposition(()),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
