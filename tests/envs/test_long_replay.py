"""The compiled replay and the control plane decide alike, request for request."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.place import PrefixOptions
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Result, Ticket, WorkerSpec
from envs.engines.base import EngineRequest, EventKind
from envs.engines.kernel import replay as kernel
from envs.engines.sim import SimEngine
from envs.fleet import Ended, FleetClock, FleetRequest, SimFleet
from envs.long_replay import PLACES, Replayed, Requests, replay, through_one
from envs.workloads import Arrival, Lengths
from tests.envs.engines.profiles import profile

CLOCK = FleetClock(report_interval=0.2)
PREFIX = {"homes": False, "capacity_blocks": 20, "gate_slack": 20.0}


def workers(limits: list[int], slow: float = 1.0, blocks: int = 128) -> list[tuple[WorkerSpec, SimEngine]]:
    """Workers whose names are not in their order, the first one slower than the others."""
    longest = min(2048, 16 * blocks)
    steps = [5e-3 * (slow if place == 0 else 1.0) for place in range(len(limits))]
    shapes = [profile(a=step, kv_blocks=blocks, max_model_len=longest) for step in steps]
    return [
        (
            WorkerSpec(f"w{(7 * place + 3) % 10}", "pool", f"sim://{place}", limit),
            SimEngine(shape, prefix_tokens=16),
        )
        for place, (limit, shape) in enumerate(zip(limits, shapes, strict=True))
    ]


def in_full(arrivals: list[Arrival], fleet: list[tuple[WorkerSpec, SimEngine]], place: str, most: int) -> list[Ended]:
    """The same under the control plane."""
    pools = (PoolSpec("pool", "model", 0),)
    limits = ControlSettings(max_queue=most, max_queue_s=1.5)
    options = PREFIX if place == "prefix" else {}
    stages = build({"order": ("fcfs", {}), "place": (place, options)}, Resources(pools=pools, settings=limits))
    sim = SimFleet(ControlPlane(pools, stages, settings=limits), CLOCK)
    for spec, engine in fleet:
        sim.add_worker(spec, engine)
    return sim.replay([request(index, arrival) for index, arrival in enumerate(arrivals)])


def request(index: int, arrival: Arrival) -> FleetRequest:
    assert arrival.lengths is not None
    lengths = arrival.lengths
    ticket = Ticket(
        str(index),
        "pool",
        prompt_tokens=lengths.prompt_tokens,
        max_tokens=arrival.max_tokens,
        prefix=lengths.prompt_prefix,
    )
    answers = {"pool": lengths.output_tokens}
    return FleetRequest(arrival.at, ticket, lengths.prompt_tokens, answers, None, index, prefix=lengths.prefix)


@st.composite
def loads(draw: st.DrawFn) -> list[Arrival]:
    chains = [tuple(1000 * family + block for block in range(12)) for family in range(4)]
    now, arrivals = 0.0, []
    for _ in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from([0.0, 0.001, 0.0137, 0.05, 0.3]))
        prompt = draw(st.integers(1, 200))
        lengths = Lengths(
            prompt,
            draw(st.integers(1, 120)),
            draw(st.sampled_from(chains))[: draw(st.integers(0, 12))],
            prefix_block=16,
        )
        arrivals.append(Arrival(now, lengths=lengths, max_tokens=draw(st.sampled_from([None, 60, 300]))))
    return arrivals


@settings(max_examples=120, deadline=None)
@given(
    loads(),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(sorted(PLACES)),
    st.integers(1, 30),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([128, 30]),
)
def test_it_decides_as_the_control_plane_does(
    arrivals: list[Arrival], limits: list[int], place: str, most: int, slow: float, blocks: int
) -> None:
    ours = replay(
        Requests.of(arrivals),
        workers(limits, slow, blocks),
        place,
        settings=ControlSettings(max_queue=most, max_queue_s=1.5),
        clock=CLOCK,
        prefix=PrefixOptions(**PREFIX),
        samples=7,
    )
    names = [spec.name for spec, _ in workers(limits)]
    theirs = {ended.request.index: ended for ended in in_full(arrivals, workers(limits, slow, blocks), place, most)}
    for index in range(len(arrivals)):
        assert told(ours, index, names) == told_of(theirs[index])
    assert len(ours.samples) <= 7


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("seed", range(8))
def test_it_decides_alike_in_a_crowd_that_is_short_of_blocks(seed: int, place: str) -> None:
    """Preemptions between two readings, an index of prefixes that is always full, chains longer than it."""
    rng = random.Random(seed)
    chains = [tuple(1000 * family + block for block in range(40)) for family in range(rng.choice([2, 30]))]
    now, arrivals = 0.0, []
    for _ in range(150):
        now += rng.choice([0.0, rng.expovariate(rng.choice([50, 500]))])
        chain = rng.choice(chains)[: rng.randint(0, 40)]
        lengths = Lengths(rng.randint(1, 600), rng.randint(1, 400), chain, prefix_block=16)
        arrivals.append(Arrival(now, lengths=lengths, max_tokens=rng.choice([None, 60, 500])))
    limits = [rng.randint(1, 40) for _ in range(rng.randint(2, 5))]
    fleet = [workers(limits, 3.0, 80) for _ in range(2)]
    bounds = ControlSettings(max_queue=1000, max_queue_s=1.5)
    options = PrefixOptions(**PREFIX)
    ours = replay(Requests.of(arrivals), fleet[0], place, settings=bounds, clock=CLOCK, prefix=options)
    names = [spec.name for spec, _ in fleet[0]]
    for ended in in_full(arrivals, fleet[1], place, 1000):
        assert told(ours, ended.request.index, names) == told_of(ended)
    assert sum(engine.totals.preemptions for _, engine in fleet[1]) > 0


@settings(max_examples=80, deadline=None)
@given(loads(), st.integers(4, 40))
def test_straight_through_one_engine_is_what_the_engine_does(arrivals: list[Arrival], spare: int) -> None:
    shape = profile(kv_blocks=128 + spare, max_model_len=400)
    engine = SimEngine(shape, prefix_tokens=16)
    ours = through_one(Requests.of(arrivals), engine)
    for index, arrival in enumerate(arrivals):
        assert arrival.lengths is not None
        sizes = arrival.lengths.prompt_tokens, arrival.lengths.output_tokens
        engine.submit(EngineRequest(str(index), *sizes, arrival=arrival.at, prefix=arrival.lengths.prefix))
    seen = {(event.id, event.kind): event for event in engine.advance(10_000.0)}
    for index in range(len(arrivals)):
        first, end = seen[str(index), EventKind.FIRST_TOKEN], seen[str(index), EventKind.FINISHED]
        assert (ours.first_token_at[index], ours.ended_at[index]) == (first.at, end.at)
        assert ours.cached_tokens[index] == end.cached_tokens


def told(ours: Replayed, index: int, names: list[str]) -> tuple[object, ...]:
    done = bool(ours.completed[index])
    worker = names[ours.worker[index]] if ours.worker[index] >= 0 else None
    first = float(ours.first_token_at[index]) if done else None
    return done, float(ours.ended_at[index]), worker, first, int(ours.output_tokens[index])


def told_of(ended: Ended) -> tuple[object, ...]:
    done = ended.result is Result.COMPLETED
    return done, ended.at, ended.worker, ended.first_token_at, ended.output_tokens


def test_a_crowd_fills_the_queue_and_waits_too_long() -> None:
    """The comparison above is worth something only if loads reach these ends."""
    arrivals = [Arrival(0.001 * i, lengths=Lengths(100, 400)) for i in range(60)]
    bounds = ControlSettings(max_queue=20, max_queue_s=1.5)
    done = replay(Requests.of(arrivals), workers([2, 2]), "least_load", settings=bounds, samples=5)
    ends = {int(result) for result in done.result}
    assert ends == {kernel.COMPLETED, kernel.QUEUE_FULL, kernel.WAITED_TOO_LONG}
    assert done.samples[:, 2].max() == 4


def test_what_fits_no_engine_is_refused_and_the_rest_goes_on() -> None:
    arrivals = [Arrival(0.0, lengths=Lengths(10, 5)), Arrival(0.1, lengths=Lengths(2000, 500))]
    done = replay(Requests.of(arrivals), workers([4]), "round_robin")
    assert done.result.tolist() == [kernel.COMPLETED, kernel.ENGINE_REFUSED]
    assert np.isnan(done.ended_at[1])


def test_the_cache_is_found_again_where_prefixes_are_kept_together() -> None:
    chains = [tuple(100 * family + block for block in range(10)) for family in range(3)]
    arrivals = [Arrival(0.2 * i, lengths=Lengths(170, 20, chains[(i * i) % 3], prefix_block=16)) for i in range(60)]
    hits = {place: replay(Requests.of(arrivals), workers([4, 4, 4]), place).cached_tokens.sum() for place in PLACES}
    assert hits["prefix"] > hits["round_robin"]


def test_wrong_use_is_refused() -> None:
    requests = Requests.of([Arrival(0.0, lengths=Lengths(10, 5))])
    with pytest.raises(ValueError, match="no compiled policy is called 'd2lpm'"):
        replay(requests, workers([1]), "d2lpm")
    with pytest.raises(ValueError, match="0 workers"):
        replay(requests, [], "least_load")
    with pytest.raises(ValueError, match="comes before"):
        Requests.of([Arrival(1.0, lengths=Lengths(1, 1)), Arrival(0.5, lengths=Lengths(1, 1))])
    with pytest.raises(ValueError, match="has no lengths"):
        Requests.of([Arrival(1.0)])
