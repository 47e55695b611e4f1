from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Result, Scores, Ticket, WorkerSpec
from envs.engines.sim import SimEngine
from envs.fleet import FleetClock, FleetRequest, SimFleet
from tests.envs.worlds import profile

STEP_S = 0.01
PROFILE = replace(profile("small", STEP_S), b=0.0)


def _fleet(max_inflight: int = 1, tier: str = "pinned", clock: FleetClock | None = None, **limits: float) -> SimFleet:
    pools = (PoolSpec("small", "s", 0), PoolSpec("large", "l", 1))
    control = ControlSettings(**limits)  # type: ignore[arg-type]
    stages = build({"tier": (tier, {})}, Resources(pools, control))
    fleet = SimFleet(ControlPlane(pools, stages, aliases={"auto": ("small", "large")}, settings=control), clock)
    for pool in pools:
        fleet.add_worker(WorkerSpec(f"{pool.name}-0", pool.name, "sim://", max_inflight), SimEngine(PROFILE))
    return fleet


def _request(
    index: int, at: float, tokens: int = 10, deadline: float | None = None, model: str = "small"
) -> FleetRequest:
    ticket = Ticket(f"r{index}", model, prompt_chars=40, deadline=deadline)
    return FleetRequest(at, ticket, 10, {"small": tokens, "large": 2 * tokens}, Scores(), index)


def test_times_by_hand() -> None:
    ended = _fleet().replay([_request(0, 1.0), _request(1, 1.05, tokens=5)])
    # Ten steps from 1.0; the second waits for the only place and takes five steps from 1.1.
    assert [end.at for end in ended] == pytest.approx([1.1, 1.15])
    assert [end.first_token_at for end in ended] == pytest.approx([1.01, 1.11])
    assert [end.latency for end in ended] == pytest.approx([0.1, 0.1])
    assert [(end.pool, end.worker, end.output_tokens) for end in ended] == [
        ("small", "small-0", 10),
        ("small", "small-0", 5),
    ]


def test_the_chosen_pool_decides_how_long_the_answer_is() -> None:
    (ended,) = _fleet().replay([_request(0, 0.0, model="large")])
    assert (ended.pool, ended.output_tokens) == ("large", 20)


def test_a_ticket_that_waits_past_its_deadline_is_rejected_when_it_passes() -> None:
    fleet = _fleet(clock=FleetClock(tick_interval=0.02))
    first, second = fleet.replay([_request(0, 0.0, tokens=100), _request(1, 0.1, deadline=0.5)])
    assert (first.request.index, first.result) == (1, Result.REJECTED)
    assert first.at == pytest.approx(0.5, abs=0.021)
    assert (first.code, first.latency, first.in_time) == ("deadline_exceeded", None, False)
    assert second.result is Result.COMPLETED


def test_a_late_answer_is_complete_but_not_in_time() -> None:
    (ended,) = _fleet().replay([_request(0, 0.0, tokens=100, deadline=0.5)])
    assert ended.result is Result.COMPLETED
    assert ended.latency == pytest.approx(1.0)
    assert not ended.in_time


def test_a_full_queue_rejects_at_once() -> None:
    fleet = _fleet(max_queue=1)
    ended = fleet.replay([_request(i, 0.0, tokens=50) for i in range(3)])
    assert [(end.request.index, end.code) for end in ended if end.result is Result.REJECTED] == [(2, "queue_full")]


def test_a_request_too_long_for_the_engine_fails() -> None:
    (ended,) = _fleet().replay([_request(0, 0.0, tokens=PROFILE.max_model_len)])
    assert (ended.result, ended.latency) == (Result.FAILED, None)


def test_a_client_that_leaves_makes_room() -> None:
    fleet = _fleet()
    for index in range(2):
        fleet.submit(_request(index, 0.0, tokens=100))
    fleet.advance(0.3)
    fleet.abort("r0")
    fleet.drain()
    gone, kept = fleet.take_ended()
    assert (gone.result, gone.at) == (Result.ABORTED, 0.3)
    assert kept.latency == pytest.approx(1.3, abs=2 * STEP_S)


def test_reports_arrive_late_and_describe_the_past() -> None:
    fleet = _fleet(clock=FleetClock(report_interval=0.5, report_delay=0.2))
    fleet.submit(_request(0, 0.0, tokens=100))
    fleet.advance(0.1)
    assert fleet.control.view(fleet.now).pool("small").workers[0].report is None
    fleet.advance(0.25)
    report = fleet.control.view(fleet.now).pool("small").workers[0].report
    assert report is not None
    assert report.at == 0.0
    fleet.advance(0.75)
    report = fleet.control.view(fleet.now).pool("small").workers[0].report
    assert report is not None
    assert (report.at, report.running) == (0.5, 1)


def test_progress_is_heard_with_the_reports() -> None:
    fleet = _fleet()
    fleet.submit(_request(0, 0.0, tokens=200))
    fleet.advance(0.6)
    work = fleet.control.view(fleet.now).pool("small").inflight_work
    fleet.advance(1.1)
    assert fleet.control.view(fleet.now).pool("small").inflight_work == work - 50


def test_arrivals_come_in_their_own_time() -> None:
    fleet = _fleet()
    with pytest.raises(ValueError, match="clock shows"):
        fleet.submit(_request(0, 1.0))
    fleet.submit(_request(0, 0.0))
    with pytest.raises(ValueError, match="still open"):
        fleet.submit(_request(0, 0.0))


@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60), st.booleans()), min_size=1, max_size=30),
    max_inflight=st.integers(1, 4),
)
def test_every_request_ends_once_and_runs_repeat(
    arrivals: Sequence[tuple[float, int, bool]], max_inflight: int
) -> None:
    ordered = sorted(arrivals)
    requests = [
        _request(i, at, tokens, deadline=at + 0.4 if hurried else None, model="auto")
        for i, (at, tokens, hurried) in enumerate(ordered)
    ]
    first, second = (_fleet(max_inflight, tier="threshold").replay(requests) for _ in range(2))
    assert first == second
    assert sorted(end.request.index for end in first) == list(range(len(requests)))
    assert all(earlier.at <= later.at for earlier, later in pairwise(first))
    for end in first:
        if end.result is Result.COMPLETED:
            assert end.latency is not None
            least = end.output_tokens * STEP_S
            assert end.latency >= least or math.isclose(end.latency, least, rel_tol=1e-6)
