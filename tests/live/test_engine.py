"""The live engine and the live fleet over real vLLM servers: the suite of all engines, and episodes that end clean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import PoolSpec, Result, Scores, Ticket, WorkerSpec
from envs.engines.live import LiveEngine
from envs.engines.live_errors import ServerUnusable
from envs.engines.vllm_process import VllmProcess
from envs.fleet import FleetClock, FleetRequest
from envs.ladder.shapes import CONTEXT
from envs.live_fleet import OVER, LiveFleet
from envs.tasks import Split, generate
from tests.envs.engines.conformance import EngineConformance, Subject
from tests.live.fleet import ABLE, LONG, MODEL, QUICK, SEATS
from upstream.client import Client
from upstream.metrics import WorkerMetrics
from upstream.vllm import VllmClient


class TestLiveEngineOverVllm(EngineConformance):
    @pytest.fixture
    def subject(self, workers: list[VllmProcess]) -> Iterator[Subject]:
        with LiveEngine.connect(workers[0].url, MODEL, stream=True) as engine:
            subject = Subject(engine, seats=SEATS, context=CONTEXT, long=CONTEXT - 100, real_time=True)
            subject.settles(lambda state: (state.running, state.waiting) == (0, 0))
            yield subject

    def test_it_sleeps_only_if_it_was_started_for_that(self, subject: Subject) -> None:
        assert isinstance(subject.engine, LiveEngine)
        with pytest.raises(ServerUnusable, match="--enable-sleep-mode"):
            subject.engine.sleep()


def test_a_fleet_of_real_servers(workers: list[VllmProcess], upper: VllmProcess) -> None:
    """Exact lengths, real prompts with their answers, and servers that are idle when the episode is over."""
    pools = tuple(PoolSpec(pool.name, pool.model, pool.tier, context_length=CONTEXT) for pool in (QUICK, ABLE))
    settings = ControlSettings()
    stages = build({"tier": ("router", {})}, Resources(pools, settings))
    plane = ControlPlane(pools, stages, aliases={"auto": (QUICK.name, ABLE.name)}, settings=settings)
    specs = [WorkerSpec(f"quick-{i}", QUICK.name, worker.url, 4, True) for i, worker in enumerate(workers)]
    specs.append(WorkerSpec("able-0", ABLE.name, upper.url, 4, True))
    better = Scores(quality={QUICK.name: 0.1, ABLE.name: 0.9})

    def request(index: int, tokens: int, model: str = "auto", prompt: str | None = None) -> FleetRequest:
        ticket = Ticket(f"r{index}", model, prompt_chars=160, max_tokens=200)
        return FleetRequest(0.02 * index, ticket, 40, {QUICK.name: tokens, ABLE.name: tokens}, better, index, prompt)

    tasks = generate(0, 3, Split.TEST)
    with LiveFleet(plane, specs, FleetClock(report_interval=0.2), idle_within=30.0) as fleet:
        sized = [request(i, 10 + i, "auto" if i % 2 else QUICK.name) for i in range(8)]
        asked = [request(8 + i, 1, QUICK.name, task.prompt) for i, task in enumerate(tasks)]
        ended = {end.request.index: end for end in fleet.replay([*sized, *asked])}
        assert {end.result for end in ended.values()} == {Result.COMPLETED}
        assert [ended[i].output_tokens for i in range(8)] == [10 + i for i in range(8)]
        assert {ended[i].pool for i in range(1, 8, 2)} == {ABLE.name}
        assert all(ended[8 + i].text for i in range(3))
        for index in range(20, 40):
            fleet.submit(FleetRequest(fleet.now, Ticket(f"r{index}", QUICK.name), 40, {QUICK.name: LONG}, index=index))
        fleet.advance(fleet.now + 0.5)
    assert [end.code for end in fleet.take_ended()] == [OVER] * 20
    assert all(asyncio.run(_gauges(spec.url)) == (0, 0) for spec in specs)


async def _gauges(url: str) -> tuple[int, int]:
    async with Client() as client:
        load: WorkerMetrics = await VllmClient(client, url).metrics()
        return load.running, load.waiting
