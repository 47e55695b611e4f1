"""The engines that need no GPU and no model, against the suite that all engines pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from envs.engines.live import LiveEngine
from envs.engines.reference import ReferenceEngine
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from tests.envs.engines.conformance import EngineConformance, Subject
from tests.envs.engines.profiles import profile
from tests.envs.engines.serving import QUICK, Served, served

PRIORITY = SchedulingPolicy.PRIORITY


@pytest.fixture(scope="module")
def worker() -> Iterator[Served]:
    with served(QUICK, policy=PRIORITY) as running:
        yield running


class TestSimEngine(EngineConformance):
    @pytest.fixture(params=[0.0, 7.25])
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        engine = SimEngine(profile(), policy=PRIORITY, now=request.param)
        return Subject(engine, seats=8, context=2048, long=400)


class TestSimEngineThatStreams(EngineConformance):
    @pytest.fixture
    def subject(self) -> Subject:
        engine = SimEngine(profile(), policy=SchedulingPolicy.FCFS, stream=True)
        return Subject(engine, seats=8, context=2048, long=400, by_priority=False)


class TestReferenceEngine(EngineConformance):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(ReferenceEngine(profile(), policy=PRIORITY), seats=8, context=2048, long=400)


class TestLiveEngineOverASimulatedWorker(EngineConformance):
    @pytest.fixture(params=["stream", "ends"])
    def subject(self, worker: Served, request: pytest.FixtureRequest) -> Iterator[Subject]:
        with LiveEngine.connect(worker.url, stream=request.param == "stream") as engine:
            yield Subject(engine, seats=QUICK.max_num_seqs, context=QUICK.max_model_len, long=1000, real_time=True)
