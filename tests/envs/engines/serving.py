"""Simulated workers on real sockets, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from envs.engines.worker import SimWorker
from predictors.latency.model import Profile
from tests.envs.engines.profiles import profile

LIMIT = 90.0
"""Seconds that a step may take on a busy machine, where the first one has the engine compiled."""
QUICK = profile(a=2e-3, b=1e-7, c=1e-6, d=0.0, request_overhead_s=0.0, token_overhead_s=0.0)
"""Two milliseconds a step."""


class Words:
    """Answers every prompt with the same five words."""

    def answer(self, prompt: str, max_tokens: int | None = None, /) -> list[str]:
        return [" one", " two", " three", " four", " five"][:max_tokens]


class Served:
    """A worker that listens; ``stop`` ends it as a crash would, its connections included."""

    def __init__(self, worker: SimWorker) -> None:
        config = uvicorn.Config(worker, port=0, log_level="critical", access_log=False, timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        limit = time.monotonic() + LIMIT
        while not self._server.started:
            assert time.monotonic() < limit, "the worker does not listen"
            time.sleep(0.002)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Close its socket and its connections."""
        self._server.should_exit = True
        self._thread.join(LIMIT)


@contextmanager
def served(shape: Profile = QUICK, **options: Any) -> Iterator[Served]:
    """A worker of this profile, by its URL."""
    running = Served(SimWorker(shape, Words(), **options))
    try:
        yield running
    finally:
        running.stop()
