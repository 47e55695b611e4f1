"""The jumping engine and the stepping one tell the same story, picosecond for picosecond."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.engines.base import EngineEvent, EngineRequest
from envs.engines.reference import ReferenceEngine
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from predictors.latency.model import Profile
from tests.envs.engines.profiles import profile


@dataclass(frozen=True)
class Script:
    """What happens to an engine: requests, cancels, what befalls the server, and the times at which it is looked at."""

    profile: Profile
    policy: SchedulingPolicy
    requests: tuple[EngineRequest, ...]
    cancels: tuple[tuple[float, str], ...]
    looks: tuple[float, ...]
    fates: tuple[tuple[float, str], ...] = ()
    """Names of methods; one that the engine's phase forbids is refused."""
    cold: bool = False
    prefix_tokens: int | None = None
    room: int = 2
    """So that the engine's memory has to grow, again and again."""

    def engines(self) -> tuple[SimEngine, ReferenceEngine]:
        """One of each kind."""
        return (
            SimEngine(
                self.profile, policy=self.policy, cold=self.cold, prefix_tokens=self.prefix_tokens, room=self.room
            ),
            ReferenceEngine(self.profile, policy=self.policy, cold=self.cold, prefix_tokens=self.prefix_tokens),
        )


FATES = ("sleep", "wake", "fail", "start", "slow_down", "recover")


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    block_size = draw(st.sampled_from([1, 4, 6, 16]))
    longest = draw(st.integers(20, 120))
    blocks = -(-longest // block_size) + draw(st.integers(0, 12))
    seats = draw(st.integers(1, 6))
    shape = profile(
        overlap_s=draw(st.sampled_from([0.0, 0.4e-3])),
        mixed_floor_s=draw(st.sampled_from([0.0, 7e-3])),
        async_scheduling=draw(st.booleans()),
        block_size=block_size,
        max_model_len=longest,
        kv_blocks=blocks,
        max_num_seqs=seats,
        max_num_batched_tokens=seats + draw(st.integers(0, 60)),
        graph_tokens=draw(st.sampled_from([8, 512])),
        eager_floor_s=draw(st.sampled_from([0.0, 9e-3])),
        d=draw(st.sampled_from([0.0, 40e-9, 3e-6])),
        request_overhead_s=draw(st.sampled_from([0.0, 4e-3])),
        token_overhead_s=draw(st.sampled_from([0.0, 50e-6, 3e-3])),
        cold_start_s=0.1,
        sleep_s=0.05,
        wake_s=0.02,
        warm_up_s=draw(st.sampled_from([0.0, 0.03])),
        warm_up_factor=2.5,
        wide_s=draw(st.sampled_from([0.0, 70e-6])),
        wide_batch=2,
        graph_step=draw(st.sampled_from([1, 4])),
    )
    times = st.floats(0.0, 0.6, allow_nan=False).map(lambda t: round(t, 4))
    count = draw(st.integers(1, 14))
    prefix_tokens = draw(st.sampled_from([None, block_size, 2 * block_size]))
    chains = [tuple(100 * family + i for i in range(120)) for family in range(3)]
    requests = tuple(
        EngineRequest(
            id=f"r{i}",
            prompt_tokens=draw(st.integers(1, longest)),
            output_tokens=draw(st.integers(1, longest)),
            priority=draw(st.integers(-1, 1)),
            arrival=draw(times),
            prefix=() if prefix_tokens is None else draw(st.sampled_from(chains))[: draw(st.integers(0, 120))],
        )
        for i in range(count)
    )
    cancels = tuple(draw(st.lists(st.tuples(times, st.sampled_from([r.id for r in requests])), max_size=4)))
    looks = tuple(draw(st.lists(times, max_size=6)))
    fates = tuple(draw(st.lists(st.tuples(times, st.sampled_from(FATES)), max_size=3)))
    policy = draw(st.sampled_from(SchedulingPolicy))
    return Script(shape, policy, requests, cancels, looks, fates, draw(st.booleans()), prefix_tokens)


def play(engine: SimEngine | ReferenceEngine, script: Script) -> tuple[list[EngineEvent], list[object]]:
    """Run a script to its end; all events, and what could be seen at each look."""
    acts = (*script.cancels, *script.fates)
    moments = sorted({0.0, *script.looks, *(r.arrival for r in script.requests), *(at for at, _ in acts)})
    events: list[EngineEvent] = []
    seen: list[object] = []
    for moment in moments:
        events += engine.advance(moment)
        for request in script.requests:
            if request.arrival == moment:
                engine.submit(request)
        seen += [engine.cancel(request_id) for at, request_id in script.cancels if at == moment]
        seen += [befall(engine, fate) for at, fate in script.fates if at == moment]
        seen.append(engine.state())
    events += engine.advance(60.0)
    seen.append(engine.state())
    return events, seen


def befall(engine: SimEngine | ReferenceEngine, fate: str) -> bool:
    """Whether the engine took it."""
    if fate in ("slow_down", "recover"):
        engine.slow_down(1.7 if fate == "slow_down" else 1.0)
        return True
    try:
        getattr(engine, fate)()
    except ValueError:
        return False
    return True


def in_order(events: list[EngineEvent]) -> list[EngineEvent]:
    """Events of one instant may come in any order."""
    assert [e.at for e in events] == sorted(e.at for e in events)
    return sorted(events, key=lambda e: (e.at, e.id, e.output_tokens, e.kind))


@settings(max_examples=250, deadline=None)
@given(scripts())
def test_jumps_equal_steps(script: Script) -> None:
    fast, slow = script.engines()
    fast_events, fast_seen = play(fast, script)
    slow_events, slow_seen = play(slow, script)
    assert in_order(fast_events) == in_order(slow_events)
    assert fast_seen == slow_seen
    assert fast.totals.preemptions == slow.preemptions
    assert fast.totals.steps == len(slow.step_ends)


@settings(max_examples=60, deadline=None)
@given(scripts(), st.lists(st.floats(0.0, 2.0, allow_nan=False), max_size=30))
def test_looking_more_often_changes_nothing(script: Script, extra: list[float]) -> None:
    once, _ = play(script.engines()[0], script)
    often, _ = play(script.engines()[0], replace(script, looks=(*script.looks, *extra)))
    assert in_order(once) == in_order(often)


def crowd(seed: int) -> Script:
    """Far more requests and seats than hypothesis draws, short of blocks, with prefixes in common."""
    rng = random.Random(seed)
    block_size = rng.choice([4, 16, 32])
    longest = rng.choice([120, 400])
    seats = rng.choice([16, 64])
    shape = profile(
        block_size=block_size,
        max_model_len=longest,
        kv_blocks=-(-longest // block_size) + rng.randint(20, 120),
        max_num_seqs=seats,
        max_num_batched_tokens=seats + rng.choice([0, 1, 30, 500]),
        token_overhead_s=rng.choice([0.0, 50e-6]),
        async_scheduling=rng.random() < 0.5,
        graph_step=rng.choice([1, 4]),
        overlap_s=rng.choice([0.0, 0.4e-3]),
    )
    tokens = rng.choice([None, block_size])
    chains = [tuple(1000 * family + i for i in range(longest // block_size)) for family in range(5)]
    requests = tuple(
        EngineRequest(
            id=f"r{i}",
            prompt_tokens=rng.randint(1, longest),
            output_tokens=rng.randint(1, rng.choice([3, 60, longest])),
            priority=rng.randint(-2, 2),
            arrival=round(rng.random() * 2.0, 4),
            prefix=() if tokens is None else rng.choice(chains)[: rng.randint(0, longest // block_size)],
        )
        for i in range(rng.choice([80, 200]))
    )
    cancels = tuple((round(rng.random() * 2.5, 4), rng.choice(requests).id) for _ in range(20))
    policy = rng.choice(list(SchedulingPolicy))
    return Script(shape, policy, requests, cancels, (), prefix_tokens=tokens, room=rng.choice([2, 256]))


@pytest.mark.parametrize("seed", range(16))
def test_jumps_equal_steps_in_a_crowd(seed: int) -> None:
    fast, slow = crowd(seed).engines()
    fast_events, fast_seen = play(fast, crowd(seed))
    slow_events, slow_seen = play(slow, crowd(seed))
    assert in_order(fast_events) == in_order(slow_events)
    assert fast_seen == slow_seen


@pytest.mark.parametrize("seed", range(16))
def test_nothing_happens_before_it_is_due(seed: int) -> None:
    """Not after cancels in the middle of a step, and not when preemption makes batches smaller."""
    script = crowd(seed)
    engine, _ = script.engines()
    moments = sorted({*(r.arrival for r in script.requests), *(at for at, _ in script.cancels), 60.0})
    for moment in moments:
        due = engine.next_event_at()
        for event in engine.advance(moment):
            assert due is not None
            assert event.at >= due
        for request in script.requests:
            if request.arrival == moment:
                engine.submit(request)
        for at, request_id in script.cancels:
            if at == moment:
                engine.cancel(request_id)
    assert engine.state().running == 0


@pytest.mark.parametrize("policy", list(SchedulingPolicy))
def test_a_crowded_cache_preempts(policy: SchedulingPolicy) -> None:
    """The differential test is worth something only if its scripts reach preemption; this one surely does."""
    crowded = profile(kv_blocks=8, max_model_len=128, max_num_batched_tokens=300)
    requests = tuple(EngineRequest(f"r{i}", 30, 80, priority=-i, arrival=0.0) for i in range(4))
    script = Script(crowded, policy, requests, (), ())
    fast, slow = SimEngine(crowded, policy=policy), ReferenceEngine(crowded, policy=policy)
    assert in_order(play(fast, script)[0]) == in_order(play(slow, script)[0])
    assert fast.totals.preemptions > 0


def test_a_prefix_in_the_cache_is_found_shared_and_evicted() -> None:
    """As above: the differential test's scripts are worth something only if they reach hits and evictions."""
    crowded = profile(kv_blocks=16, max_model_len=128, max_num_batched_tokens=300)
    chains = [tuple(range(100 * i, 100 * i + 8)) for i in range(3)]
    requests = tuple(EngineRequest(f"r{i}", 100, 28, arrival=0.4 * i, prefix=chains[i % 5 % 3]) for i in range(10))
    script = Script(crowded, SchedulingPolicy.FCFS, requests, (), (), prefix_tokens=16)
    fast, slow = script.engines()
    fast_events, _ = play(fast, script)
    assert in_order(fast_events) == in_order(play(slow, script)[0])
    cached = {event.id: event.cached_tokens for event in fast_events}
    assert cached["r0"] == 0
    assert max(cached.values()) == 96
    state = fast.state()
    assert 0 < state.prefix_hits < state.prefix_queries == 1000
    assert state.kv_usage == 0.0


def test_the_reference_follows_its_own_next_event_times() -> None:
    engine = ReferenceEngine(profile())
    engine.submit(EngineRequest("a", 40, 5, arrival=1.0))
    events: list[EngineEvent] = []
    while (at := engine.next_event_at()) is not None:
        events += engine.advance(at)
    assert [e.kind.value for e in events] == ["first_token", "finished"]


def test_the_reference_refuses_what_the_engine_refuses() -> None:
    engine = ReferenceEngine(profile())
    engine.submit(EngineRequest("a", 40, 5, arrival=1.0))
    with pytest.raises(ValueError, match="in use"):
        engine.submit(EngineRequest("a", 40, 5, arrival=1.0))
    with pytest.raises(ValueError, match="at least 1"):
        engine.submit(EngineRequest("b", 40, 0, arrival=1.0))
    engine.advance(2.0)
    with pytest.raises(ValueError, match="before the clock"):
        engine.submit(EngineRequest("c", 40, 5, arrival=1.0))
    assert engine.cancel("nobody") is False


def test_an_engine_that_grows_keeps_its_constants() -> None:
    shape = profile(overlap_s=0.4e-3, mixed_floor_s=6e-3, async_scheduling=True, warm_up_s=0.1, warm_up_factor=2.0)
    seen = []
    for engine in (SimEngine(shape, cold=True), ReferenceEngine(shape, cold=True)):
        for i in range(200):
            engine.submit(EngineRequest(f"r{i}", 20 + i % 90, 1 + i % 7, arrival=30.0 + 0.01 * i))
        seen.append(in_order(engine.advance(100.0)))
    assert len(seen[0]) == 400
    assert seen[0] == seen[1]
