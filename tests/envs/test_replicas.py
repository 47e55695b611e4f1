"""Whatever is wanted and whatever goes wrong, replicas are brought about step by step, and requests do not get lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Result, WorkerPhase
from envs.episode import Episode
from envs.fleet import FleetClock, SimFleet
from envs.handed import HandedScale
from envs.hardship import Hardship
from envs.mechanics import SimMechanic
from envs.replicas import Replicas, Stand, Wanted
from envs.scenarios import WorkloadKind
from rl.play import named_tier
from tests.envs.worlds import PROFILES, SCENARIO, source

MOST = 3
COLD_S, SLEEP_S, WAKE_S = 5.0, 2.0, 1.0
MACHINES = {
    name: replace(profile, cold_start_s=COLD_S, sleep_s=SLEEP_S, wake_s=WAKE_S, usd_per_hour=3600.0)
    for name, profile in PROFILES.items()
}
ONE = replace(
    SCENARIO, pools=SCENARIO.pools[1:2], base_rate=6.0, burst_rate=6.0, bursts=(), duration_s=30.0, deadline_s=10.0
)
POOL = ONE.pools[0].name
SOURCE = replace(source(ONE), profiles={POOL: MACHINES[POOL]})
LEGAL = {
    Stand.OFF: {Stand.STARTING},
    Stand.STARTING: {Stand.READY, Stand.OFF},
    Stand.READY: {Stand.DRAINING, Stand.DOWN},
    Stand.DOWN: {Stand.READY, Stand.OFF},
    Stand.DRAINING: {Stand.READY, Stand.FALLING, Stand.OFF},
    Stand.FALLING: {Stand.ASLEEP, Stand.WAKING},
    Stand.ASLEEP: {Stand.WAKING, Stand.OFF},
    Stand.WAKING: {Stand.READY},
}
"""What may follow what; two steps may be taken at once."""


def build(episode: Episode, running: int = 1) -> tuple[SimFleet, Replicas]:
    """A fleet of one pool with up to three replicas."""
    stages = named_tier("pinned", {})
    control = episode.control(lambda pools, settings: replace(stages(pools, settings), scale=HandedScale()))
    fleet = SimFleet(control, FleetClock())
    mechanic = SimMechanic(episode, fleet)
    specs = {POOL: [episode.scenario.pool(POOL).worker(f"{POOL}-{place}") for place in range(MOST)]}
    for spec in specs[POOL][:running]:
        mechanic.join(spec)
    return fleet, Replicas(fleet, mechanic, specs, {POOL: running}, {POOL: 3600.0}, asleep_share=0.5, watch_s=0.5)


def reachable(before: Stand, after: Stand) -> bool:
    """Whether one stand follows another in at most three steps."""
    front = {before}
    for _ in range(4):
        if after in front:
            return True
        front |= {following for stand in front for following in LEGAL[stand]}
    return False


wishes = st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST), st.floats(0.3, 6.0)), min_size=1, max_size=10)


@settings(max_examples=40, deadline=None)
@given(wishes=wishes, crashes=st.sampled_from([0.0, 400.0]), seed=st.integers(0, 50))
def test_wishes_and_crashes(wishes: Sequence[tuple[int, int, float]], crashes: float, seed: int) -> None:
    hard = Hardship(seed=seed, horizon_s=60.0, crashes_per_hour=crashes)
    episode = replace(SOURCE.draw(seed, WorkloadKind.STABLE), hardship=hard)
    fleet, replicas = build(episode)
    at, place = 0.0, 0
    for ready, asleep, seconds in wishes:
        replicas.want(POOL, Wanted(ready, min(asleep, MOST - ready)))
        until = at + seconds
        while at < until:
            at = min(at + 0.25, until)
            stands = [replica.stand for replica in replicas.of(POOL)]
            while place < len(episode.requests) and episode.requests[place].at <= at:
                replicas.advance(episode.requests[place].at)
                if fleet.submit(episode.requests[place]):
                    fleet.score(episode.requests[place].ticket.id)
                place += 1
            replicas.advance(at)
            assert all(map(reachable, stands, [replica.stand for replica in replicas.of(POOL)]))
        phases = {worker.name: worker.phase for worker in fleet.control.view(at).pool(POOL).workers}
        for replica in replicas.of(POOL):
            told = phases.get(replica.spec.name)
            assert told in (replica.stand.phase, None) or told is WorkerPhase.UNHEALTHY
    replicas.drain(1e6)
    ended = fleet.take_ended()
    assert sorted(end.request.index for end in ended) == list(range(place))
    if not crashes:
        assert all(end.result is not Result.FAILED for end in ended), "draining breaks nothing off"
    assert fleet.open == 0


@settings(max_examples=25, deadline=None)
@given(wishes=wishes)
def test_in_the_end_there_is_what_is_wanted(wishes: Sequence[tuple[int, int, float]]) -> None:
    _, replicas = build(SOURCE.draw(0))
    at = 0.0
    for ready, asleep, seconds in wishes:
        wanted = Wanted(ready, min(asleep, MOST - ready))
        replicas.want(POOL, wanted)
        at += seconds
        replicas.advance(at)
    replicas.advance(at + 30.0)
    assert replicas.count(POOL, Stand.READY) == wanted.ready
    assert replicas.count(POOL, Stand.ASLEEP) == wanted.asleep
    assert replicas.count(POOL, Stand.OFF) == MOST - wanted.ready - wanted.asleep
    before = replicas.usd
    replicas.advance(at + 40.0)
    assert replicas.usd - before == pytest.approx(10.0 * (wanted.ready + 0.5 * wanted.asleep))


def test_times_by_hand() -> None:
    _, replicas = build(SOURCE.draw(0))
    seen = []
    replicas.want(POOL, Wanted(2))
    replicas.advance(4.9)
    seen.append(replicas.count(POOL, Stand.READY))
    replicas.advance(5.0)
    seen.append(replicas.count(POOL, Stand.READY))
    replicas.want(POOL, Wanted(1, 1))
    seen.append(replicas.count(POOL, Stand.FALLING))
    replicas.advance(7.0)
    seen.append(replicas.count(POOL, Stand.ASLEEP))
    replicas.want(POOL, Wanted(2))
    replicas.advance(7.5)
    seen.append(replicas.count(POOL, Stand.WAKING))
    replicas.advance(8.0)
    seen.append(replicas.count(POOL, Stand.READY))
    assert seen == [1, 2, 1, 1, 1, 2]


def test_one_that_is_falling_asleep_wakes_up_after_it_has() -> None:
    _, replicas = build(SOURCE.draw(0))
    replicas.want(POOL, Wanted(0, 1))
    replicas.advance(0.5)
    replicas.want(POOL, Wanted(1))
    replicas.advance(2.9)
    assert replicas.count(POOL, Stand.WAKING) == 1
    replicas.advance(3.0)
    assert replicas.count(POOL, Stand.READY) == 1


@pytest.mark.parametrize("wanted", [Wanted(-1), Wanted(2, 2), Wanted(0, -1)])
def test_what_cannot_be_is_refused(wanted: Wanted) -> None:
    _, replicas = build(SOURCE.draw(0))
    with pytest.raises(ValueError, match="up to 3"):
        replicas.want(POOL, wanted)
