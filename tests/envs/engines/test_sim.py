"""The simulated engine against hand-computed times, and its phases, snapshots and streams."""

from __future__ import annotations

from dataclasses import replace

import pytest

from envs.engines.base import EngineEvent, EnginePhase, EngineRequest, EventKind
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from tests.envs.engines.profiles import PLAIN, profile

MS = 1e-3


def finish(engine: SimEngine) -> dict[str, dict[EventKind, float]]:
    """Every event's time by request."""
    times: dict[str, dict[EventKind, float]] = {}
    for event in engine.advance(engine.now + 3600.0):
        times.setdefault(event.id, {})[event.kind] = event.at
    return times


def test_one_request_takes_what_the_formula_says() -> None:
    engine = SimEngine(profile())
    engine.submit(EngineRequest("a", 100, 3, arrival=1.0))
    times = finish(engine)["a"]
    first = 1.0 + 4 * MS + (5 * MS + 100 * 20e-6)
    assert times[EventKind.FIRST_TOKEN] == pytest.approx(first + 50e-6, abs=1e-9)
    decode = 2 * (5 * MS + 30e-6) + (101 + 102) * 40e-9
    assert times[EventKind.FINISHED] == pytest.approx(first + decode + 50e-6, abs=1e-9)


def test_a_long_prompt_is_prefilled_in_chunks_beside_the_decodes() -> None:
    engine = SimEngine(profile(token_overhead_s=0.0, request_overhead_s=0.0, d=0.0))
    engine.submit(EngineRequest("short", 10, 50, arrival=0.0))
    engine.submit(EngineRequest("long", 600, 2, arrival=1 * MS))
    times = finish(engine)
    short = 5 * MS + 10 * 20e-6
    chunks = [255, 255, 90]
    long = short + sum(5 * MS + 30e-6 + tokens * 20e-6 for tokens in chunks)
    assert times["short"][EventKind.FIRST_TOKEN] == pytest.approx(short, abs=1e-9)
    assert times["long"][EventKind.FIRST_TOKEN] == pytest.approx(long, abs=1e-9)


def test_a_step_outside_the_cuda_graphs_has_a_floor() -> None:
    def ttft(floor: float, prompt: int) -> float:
        engine = SimEngine(profile(eager_floor_s=floor, graph_tokens=64))
        engine.submit(EngineRequest("a", prompt, 1))
        return finish(engine)["a"][EventKind.FIRST_TOKEN]

    assert ttft(0.030, 64) == ttft(0.0, 64)
    assert ttft(0.030, 65) == pytest.approx(ttft(0.0, 65) + 0.030 - (5 * MS + 65 * 20e-6), abs=1e-9)


def test_priority_decides_who_gets_the_next_seat() -> None:
    def order(policy: SchedulingPolicy) -> list[str]:
        engine = SimEngine(profile(max_num_seqs=1), policy=policy)
        engine.submit(EngineRequest("running", 10, 50, arrival=0.0))
        engine.submit(EngineRequest("late", 10, 5, priority=7, arrival=0.01))
        engine.submit(EngineRequest("urgent", 10, 5, priority=-1, arrival=0.02))
        ends = [e for e in engine.advance(10.0) if e.kind is EventKind.FINISHED]
        return [e.id for e in ends]

    assert order(SchedulingPolicy.FCFS) == ["running", "late", "urgent"]
    assert order(SchedulingPolicy.PRIORITY) == ["running", "urgent", "late"]


def test_when_blocks_run_out_the_least_urgent_is_recomputed() -> None:
    engine = SimEngine(
        profile(kv_blocks=8, max_model_len=128, max_num_batched_tokens=300), policy=SchedulingPolicy.PRIORITY
    )
    engine.submit(EngineRequest("urgent", 30, 90, priority=0))
    engine.submit(EngineRequest("patient", 30, 90, priority=5))
    times = finish(engine)
    assert engine.totals.preemptions >= 1
    assert engine.totals.prefill_tokens > 60
    assert times["urgent"][EventKind.FINISHED] < times["patient"][EventKind.FINISHED]
    assert engine.state().kv_usage == 0.0


def test_a_stream_reports_progress_without_gaps_or_repeats() -> None:
    engine = SimEngine(profile(kv_blocks=8, max_model_len=128), stream=True)
    for i in range(3):
        engine.submit(EngineRequest(f"r{i}", 30, 60))
    counts: dict[str, list[int]] = {f"r{i}": [] for i in range(3)}
    events: list[EngineEvent] = []
    while engine.next_event_at() is not None:
        events += engine.advance(engine.now + 0.02)
    for event in events:
        counts[event.id].append(event.output_tokens)
    assert engine.totals.preemptions > 0
    for seen in counts.values():
        assert seen[:-1] == sorted(set(seen[:-1]))
        assert seen[-1] == 60
        assert len(seen) > 5


def test_streaming_changes_no_times() -> None:
    def ends(stream: bool) -> list[EngineEvent]:
        engine = SimEngine(profile(), stream=stream)
        for i in range(12):
            engine.submit(EngineRequest(f"r{i}", 40 + i, 30, arrival=0.03 * i))
        seen = [e for step in range(100) for e in engine.advance(0.05 * (step + 1))]
        return [e for e in seen if e.kind is not EventKind.TOKENS]

    assert ends(True) == ends(False)


def test_a_snapshot_goes_on_by_itself() -> None:
    engine = SimEngine(profile())
    for i in range(10):
        engine.submit(EngineRequest(f"r{i}", 100, 40, arrival=0.02 * i))
    engine.advance(0.1)
    twin = engine.snapshot()
    assert twin.profile is engine.profile
    assert twin.advance(5.0) == engine.advance(5.0)
    engine.submit(EngineRequest("more", 10, 10, arrival=6.0))
    assert twin.next_event_at() is None
    assert engine.next_event_at() is not None


def test_reset_forgets_everything() -> None:
    engine = SimEngine(profile())
    engine.submit(EngineRequest("a", 100, 40))
    engine.advance(0.05)
    engine.reset(3.0)
    assert (engine.now, engine.next_event_at(), engine.state().running) == (3.0, None, 0)
    engine.submit(EngineRequest("a", 10, 2, arrival=3.0))
    assert finish(engine)["a"][EventKind.FINISHED] > 3.0


def test_a_cold_engine_serves_when_it_has_started() -> None:
    engine = SimEngine(profile(), cold=True)
    engine.submit(EngineRequest("a", 10, 1))
    assert engine.advance(29.9) == []
    state = engine.state()
    assert (state.phase, state.waiting) == (EnginePhase.STARTING, 1)
    (first, _) = engine.advance(31.0)
    assert first.at == pytest.approx(30.0 + 5 * MS + 10 * 20e-6 + 50e-6)
    assert engine.state().phase is EnginePhase.READY


def test_sleep_aborts_and_waking_takes_its_time() -> None:
    engine = SimEngine(profile())
    engine.submit(EngineRequest("a", 10, 500))
    engine.advance(1.0)
    engine.sleep()
    assert [e.kind for e in engine.advance(1.5)] == [EventKind.ABORTED]
    engine.submit(EngineRequest("b", 10, 1, arrival=1.5))
    assert engine.advance(10.0) == []
    state = engine.state()
    assert (state.phase, state.waiting, state.kv_usage) == (EnginePhase.SLEEPING, 1, 0.0)
    engine.wake()
    assert engine.advance(10.4) == []
    assert engine.state().phase is EnginePhase.WAKING
    assert engine.advance(11.0)[0].at == pytest.approx(10.5 + 5 * MS + 10 * 20e-6 + 50e-6)


def test_waking_waits_for_sleep_to_be_complete() -> None:
    engine = SimEngine(profile())
    engine.sleep()
    engine.advance(0.1)
    engine.wake()
    engine.advance(2.4)
    assert engine.state().phase is EnginePhase.WAKING
    engine.advance(2.5)
    assert engine.state().phase is EnginePhase.READY


def test_a_crash_loses_what_runs_and_refuses_what_comes() -> None:
    engine = SimEngine(profile())
    engine.submit(EngineRequest("a", 10, 500))
    engine.advance(1.0)
    engine.fail()
    engine.submit(EngineRequest("b", 10, 5, arrival=1.0))
    assert {(e.id, e.kind) for e in engine.advance(2.0)} == {("a", EventKind.ABORTED), ("b", EventKind.REJECTED)}
    engine.start()
    engine.submit(EngineRequest("c", 10, 1, arrival=2.0))
    assert engine.advance(31.9) == []
    assert [e.id for e in engine.advance(33.0)] == ["c", "c"]


def test_phases_change_only_where_they_can() -> None:
    engine = SimEngine(profile())
    with pytest.raises(ValueError, match="is ready, not sleeping"):
        engine.wake()
    with pytest.raises(ValueError, match="is ready, not failed"):
        engine.start()
    engine.sleep()
    with pytest.raises(ValueError, match="is sleeping, not ready"):
        engine.sleep()
    with pytest.raises(ValueError, match="cannot go back"):
        SimEngine(profile(), now=5.0).advance(4.0)


def test_work_does_not_grow_with_the_length_of_answers() -> None:
    """A million decode steps are a handful of runs."""
    long = replace(PLAIN, max_model_len=2_000_000, kv_blocks=130_000)
    engine = SimEngine(long, log_runs=True)
    engine.submit(EngineRequest("a", 10, 1_000_000))
    engine.advance(1e7)
    assert engine.totals.steps == 1_000_000
    assert len(engine.runs) <= 3
