"""The live fleet over simulated workers on real sockets: real time, one control plane, clean ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Result, Scores, Ticket, WorkerPhase, WorkerSpec
from envs.engines.base import EngineRequest
from envs.engines.live import LiveEngine
from envs.engines.live_errors import LoopFailed, NotIdle, ServerUnusable
from envs.engines.sim import SimEngine
from envs.engines.vllm_process import free_port
from envs.fleet import Fleet, FleetClock, FleetRequest, SimFleet
from envs.live_fleet import OVER, Bounds, LiveEnded, LiveFleet
from tests.envs.engines.serving import QUICK, Served, served

LIMIT_S = 20.0
CLOCK = FleetClock(report_interval=0.05, tick_interval=0.02)
LONG = 1500
"""Output tokens of an answer that takes three seconds."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def upper() -> Iterator[Served]:
    with served() as running:
        yield running


def control(tier: str = "static", **settings: Any) -> ControlPlane:
    pools = (PoolSpec("small", QUICK.model, 0), PoolSpec("large", QUICK.model, 1))
    limits = ControlSettings(**settings)
    stages = build({"tier": (tier, {}), "order": ("fcfs", {})}, Resources(pools, limits))
    return ControlPlane(pools, stages, aliases={"auto": ("small", "large")}, settings=limits)


def specs(max_inflight: int = 4, **urls: str) -> list[WorkerSpec]:
    """Workers by name; those whose name begins with ``large`` are of that pool."""
    return [
        WorkerSpec(name, "large" if name.startswith("large") else "small", url, max_inflight)
        for name, url in urls.items()
    ]


def request(index: int, at: float, tokens: int = 10, model: str = "small", **more: Any) -> FleetRequest:
    scores = Scores(quality={"small": 0.2, "large": 0.9} if index % 2 else {"small": 0.9, "large": 0.9})
    ticket = Ticket(f"r{index}", model, prompt_chars=40, prompt_tokens=8, **more)
    return FleetRequest(at, ticket, 8, {"small": tokens, "large": 2 * tokens}, scores, index)


def live(worker: Served, max_inflight: int = 4, **options: Any) -> LiveFleet:
    """A fleet of one worker."""
    return LiveFleet(control(), specs(max_inflight, a=worker.url), CLOCK, **options)


def ended(fleet: LiveFleet) -> dict[str, LiveEnded]:
    """What ended, by id."""
    found = fleet.take_ended()
    assert all(isinstance(end, LiveEnded) for end in found)
    return {end.request.ticket.id: end for end in found if isinstance(end, LiveEnded)}


def until(fleet: LiveFleet, holds: Callable[[], object]) -> None:
    limit = fleet.now + LIMIT_S
    while not holds():
        assert fleet.now < limit
        fleet.advance(fleet.now + 0.01)


@contextmanager
def busy(worker: Served) -> Iterator[None]:
    """Somebody else has a request running there."""
    with LiveEngine.connect(worker.url) as engine:
        engine.submit(EngineRequest("other", 5, LONG, arrival=engine.now))
        while not engine.state().running:
            engine.advance(engine.now + 0.01)
        yield


def test_a_replay_ends_as_it_would_in_simulation(worker: Served, upper: Served) -> None:
    requests = [request(i, 0.01 * i, 5 + i, "auto", max_tokens=200) for i in range(12)]
    simulated = SimFleet(control("router"), CLOCK)
    for spec in specs(a="sim://", large="sim://"):
        simulated.add_worker(spec, SimEngine(QUICK))
    with LiveFleet(control("router"), specs(a=worker.url, large=upper.url), CLOCK) as fleet:
        seen = {end.request.index: (end.result, end.pool, end.output_tokens) for end in fleet.replay(requests)}
    assert seen == {end.request.index: (end.result, end.pool, end.output_tokens) for end in simulated.replay(requests)}
    assert {pool for _, pool, _ in seen.values()} == {"small", "large"}


def test_times_are_those_of_the_bytes(worker: Served) -> None:
    with live(worker) as fleet:
        (end,) = fleet.replay([request(0, 0.05, tokens=40)])
        assert isinstance(end, LiveEnded)
        assert end.first_token_at is not None
        assert 0.05 < end.first_token_at < end.at <= fleet.now
        assert (end.prompt_tokens, end.text, end.code, end.worker) == (8, None, None, "a")
        assert end.late_by >= 0.0


def test_requests_are_served_while_the_agent_thinks(worker: Served) -> None:
    with live(worker, max_inflight=1) as fleet:
        for index in range(3):
            fleet.submit(request(index, fleet.now))
        limit = time.monotonic() + LIMIT_S
        while fleet.open:  # which asks nothing of the fleet
            assert time.monotonic() < limit
            time.sleep(0.01)
        ends = [end.at for end in fleet.take_ended()]
        assert len(ends) == 3
        assert ends == sorted(ends)
        assert ends[-1] < fleet.now


def test_an_open_tier_waits_for_as_long_as_the_agent_thinks(worker: Served, upper: Served) -> None:
    with LiveFleet(control("router"), specs(a=worker.url, large=upper.url), CLOCK) as fleet:
        assert fleet.submit(request(1, fleet.now, model="auto"))
        fleet.advance(fleet.now + 0.2)
        context = fleet.tier_context("r1")
        assert context is not None
        assert context.pools == ("small", "large")
        assert fleet.open == 1
        fleet.score("r1")
        assert fleet.tier_context("r1") is None
        fleet.drain()
        assert ended(fleet)["r1"].pool == "large"


def test_a_scoring_budget_is_kept_where_it_is_asked_for(worker: Served, upper: Served) -> None:
    workers = specs(a=worker.url, large=upper.url)
    with LiveFleet(control("router"), workers, CLOCK, keep_scoring_budget=True) as fleet:
        assert fleet.submit(request(1, fleet.now, model="auto"))
        fleet.drain()
        fleet.score("r1")
        assert ended(fleet)["r1"].result is Result.COMPLETED


def test_a_late_request_keeps_its_time_and_an_early_one_is_a_mistake(worker: Served) -> None:
    with live(worker) as fleet:
        fleet.advance(0.1)
        fleet.submit(request(0, 0.02))
        with pytest.raises(ValueError, match="advance first"):
            fleet.submit(request(1, fleet.now + 1.0))
        with pytest.raises(ValueError, match="still open"):
            fleet.submit(request(0, fleet.now))
        fleet.drain()
        end = ended(fleet)["r0"]
        assert end.late_by >= 0.08
        assert end.latency is not None
        assert end.latency > end.late_by


def test_a_client_that_leaves_makes_room(worker: Served) -> None:
    with live(worker, max_inflight=1) as fleet:
        fleet.submit(request(0, fleet.now, LONG))
        fleet.submit(request(1, fleet.now))
        fleet.advance(fleet.now + 0.1)
        fleet.abort("r0")
        fleet.abort("r0")
        fleet.drain()
        found = ended(fleet)
        assert {name: end.result for name, end in found.items()} == {"r0": Result.ABORTED, "r1": Result.COMPLETED}
        assert 0 < found["r0"].output_tokens < LONG


def test_a_full_queue_rejects_and_a_deadline_is_kept(worker: Served) -> None:
    plane = control(max_queue=1)
    with LiveFleet(plane, specs(1, a=worker.url), CLOCK) as fleet:
        fleet.submit(request(0, fleet.now, LONG))
        fleet.submit(request(1, fleet.now, deadline=fleet.now + 0.1))
        fleet.submit(request(2, fleet.now))
        until(fleet, lambda: fleet.open == 1)
        found = ended(fleet)
        assert {name: (end.result, end.code) for name, end in found.items()} == {
            "r1": (Result.REJECTED, "deadline_exceeded"),
            "r2": (Result.REJECTED, "queue_full"),
        }


def test_prompts_are_asked_and_answers_come_back(worker: Served) -> None:
    asked = FleetRequest(0.0, Ticket("r", "small", max_tokens=50), 8, {"small": 30}, prompt="say five words")
    with live(worker) as fleet:
        fleet.submit(asked)
        fleet.drain()
        end = ended(fleet)["r"]
    assert (end.text, end.output_tokens) == (" one two three four five", 5)


def test_bodies_of_ones_own(worker: Served) -> None:
    def body(request: FleetRequest, pool: str) -> Mapping[str, Any]:
        return {"prompt": f"{pool}: {request.index}", "max_tokens": 3}

    with live(worker, bodies=body) as fleet:
        (end,) = fleet.replay([request(0, 0.0)])
    assert (end.text, end.output_tokens) == (" one two three", 3)


def test_a_mistake_in_the_bodies_is_told(worker: Served) -> None:
    def body(request: FleetRequest, pool: str) -> Mapping[str, Any]:
        return {"prompt": object(), "max_tokens": request.output_tokens[pool]}

    with live(worker, max_inflight=1, bodies=body) as fleet, pytest.raises(TypeError, match="not JSON"):
        fleet.submit(request(0, 0.0))

    def later(request: FleetRequest, pool: str) -> Mapping[str, Any]:
        return {"prompt": "x", "max_tokens": 2} if request.index == 0 else body(request, pool)

    with live(worker, max_inflight=1, bodies=later) as fleet:
        fleet.submit(request(0, fleet.now))
        fleet.submit(request(1, fleet.now))
        with pytest.raises(LoopFailed, match="not JSON"):
            fleet.drain()


def test_a_mistake_that_nobody_has_been_told_of_does_not_keep_an_episode_from_ending_clean(worker: Served) -> None:
    def body(request: FleetRequest, pool: str) -> Mapping[str, Any]:
        return {"prompt": "x", "max_tokens": LONG, "ignore_eos": True} if request.index else {"prompt": object()}

    fleet = live(worker, max_inflight=2, bodies=body)
    fleet.submit(request(1, fleet.now))
    fleet.submit(request(2, fleet.now))
    fleet.submit(request(0, fleet.now))
    fleet.abort("r1")
    with pytest.raises(LoopFailed, match="not JSON"):
        fleet.close()
    with LiveEngine.connect(worker.url) as engine:
        assert engine.state().running == 0


def test_the_control_plane_hears_of_gauges_and_progress(worker: Served) -> None:
    with live(worker) as fleet:
        fleet.submit(request(0, fleet.now, LONG))
        before = fleet.consult(lambda plane, now: plane.view(now).pool("small").inflight_work)

        def seen() -> bool:
            pool = fleet.consult(lambda plane, now: plane.view(now).pool("small"))
            report = pool.workers[0].report
            return report is not None and report.running == 1 and pool.inflight_work < before

        until(fleet, seen)


def test_an_episode_is_bounded_in_requests(worker: Served) -> None:
    with live(worker, bounds=Bounds(max_requests=2)) as fleet:
        found = {end.request.index: end for end in fleet.replay([request(i, 0.0) for i in range(4)])}
        assert fleet.over
    assert [found[i].result for i in range(4)] == [Result.COMPLETED] * 2 + [Result.REJECTED] * 2
    assert [found[i].code for i in (2, 3)] == [OVER, OVER]


def test_an_episode_is_bounded_in_time(worker: Served) -> None:
    with live(worker, bounds=Bounds(max_seconds=0.2)) as fleet:
        fleet.submit(request(0, fleet.now, LONG))
        fleet.drain()
        assert fleet.over
        assert not fleet.submit(request(1, fleet.now))
        found = ended(fleet)
    assert [(end.result, end.code) for end in found.values()] == [(Result.ABORTED, OVER), (Result.REJECTED, OVER)]
    assert found["r0"].at >= 0.2


def test_draining_stops_at_its_limit(worker: Served) -> None:
    with live(worker) as fleet:
        fleet.submit(request(0, fleet.now, LONG))
        fleet.drain(fleet.now + 0.05)
        assert fleet.open == 1


def test_an_episode_ends_clean(worker: Served) -> None:
    with live(worker, max_inflight=20) as fleet:
        for index in range(12):
            fleet.submit(request(index, fleet.now, LONG))
        fleet.advance(fleet.now + 0.1)
    fleet.close()
    assert [end.code for end in fleet.take_ended()] == [OVER] * 12
    with LiveEngine.connect(worker.url) as engine:
        state = engine.state()
    assert (state.running, state.waiting) == (0, 0)


def test_a_server_that_does_not_become_idle_is_an_error(worker: Served) -> None:
    with busy(worker):
        fleet = live(worker, idle_within=0.05)
        fleet.submit(request(0, fleet.now, LONG))
        with pytest.raises(NotIdle, match=r"worker 'a' at http.* shows 1 running and 0 waiting 0\.05 s after"):
            fleet.close()
        live(worker, idle_within=None).close()


def test_what_ran_on_a_lost_worker_goes_to_another_and_the_worker_is_out(worker: Served) -> None:
    lost = served()
    with LiveFleet(control(), specs(8, a=lost.__enter__().url, b=worker.url), CLOCK) as fleet:
        lost.__exit__(None, None, None)
        found = fleet.replay([request(i, fleet.now + 0.1) for i in range(6)])
        assert [(end.result, end.worker) for end in found] == [(Result.COMPLETED, "b")] * 6

        def phase() -> WorkerPhase:
            return fleet.consult(lambda plane, now: plane.view(now).pool("small").workers[0].phase)

        until(fleet, lambda: phase() is WorkerPhase.UNHEALTHY)


def test_what_a_busy_worker_refuses_goes_to_another(worker: Served) -> None:
    with served(max_num_queued_reqs=0) as busy_one:
        with LiveFleet(control(), specs(1, a=busy_one.url, b=worker.url), CLOCK) as fleet:
            found = fleet.replay([request(i, 0.0) for i in range(3)])
        assert [(end.result, end.worker) for end in found] == [(Result.COMPLETED, "b")] * 3
        alone = control(max_attempts=1)
        with LiveFleet(alone, specs(a=busy_one.url), CLOCK) as fleet:
            (end,) = fleet.replay([request(0, 0.0)])
        assert (end.result, end.code) == (Result.FAILED, "worker_busy")


def test_a_request_that_no_worker_can_serve_fails(worker: Served) -> None:
    with live(worker) as fleet:
        (end,) = fleet.replay([request(0, 0.0, QUICK.max_model_len)])
        assert isinstance(end, LiveEnded)
        assert (end.result, end.latency) == (Result.FAILED, None)
        assert "do not fit into a context of 2048" in end.why


def test_a_fleet_without_its_servers_does_not_begin(worker: Served) -> None:
    with pytest.raises(ServerUnusable, match="is a vLLM server running there"):
        LiveFleet(control(), specs(a=worker.url, b=f"http://127.0.0.1:{free_port()}"))


def test_workers_join_rest_sleep_and_wake(worker: Served) -> None:
    with served(replace(QUICK, sleep_s=0.01, wake_s=0.01), sleep_mode=True) as second, live(worker, 1) as fleet:

        def used() -> set[str | None]:
            """Who serves two requests at once."""
            count = next(numbers)
            for index in (2 * count, 2 * count + 1):
                fleet.submit(request(index, fleet.now, 20))
            fleet.drain()
            return {end.worker for end in fleet.take_ended()}

        numbers = itertools.count()
        fleet.add_worker(specs(1, b=second.url)[0])
        assert used() == {"a", "b"}
        fleet.set_phase("b", WorkerPhase.DRAINING)
        assert used() == {"a"}
        fleet.set_phase("b", WorkerPhase.READY)
        fleet.sleep("b")
        assert used() == {"a"}
        fleet.wake("b")
        assert used() == {"a", "b"}
        with pytest.raises(ServerUnusable, match="--enable-sleep-mode"):
            fleet.sleep("a")
        assert used() == {"a", "b"}


def test_it_is_a_fleet(worker: Served) -> None:
    def drive(fleet: Fleet) -> int:
        fleet.submit(request(0, fleet.now))
        fleet.advance(fleet.now)
        fleet.drain()
        return len(fleet.take_ended())

    with live(worker) as fleet:
        assert drive(fleet) == 1
