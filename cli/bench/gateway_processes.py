"""Servers under measurement as processes: starting them, what they cost, ending them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from cli.bench.gateway_wrk import LoadError

__all__ = ["Cost", "Sample", "Sampler", "Server", "fake_upstream", "free_port", "page"]

_STOP_S = 15.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds so far and resident bytes now, of a process and all its descendants."""

    cpu_s: float
    rss_bytes: int


class Server:
    """A process that listens on ``port`` of this machine; its output is in ``log``."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._process = process
        self._tree = psutil.Process(process.pid)

    @classmethod
    def start(
        cls,
        name: str,
        port: int,
        command: Sequence[str],
        log: Path,
        environ: Mapping[str, str],
        cwd: Path | None = None,
    ) -> Self:
        """Start it without waiting."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=dict(environ),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, port, process, log)

    @property
    def pid(self) -> int:
        """Of the first process."""
        return self._process.pid

    def wait(self, ready: Callable[[], bool], seconds: float) -> Self:
        """Until ``ready``. Raises LoadError, with the end of its log, if it ends first or takes longer."""
        limit = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None:
                raise LoadError(f"{self.name} ended with {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > limit:
                raise LoadError(f"{self.name} was not ready after {seconds:.0f} s:\n{self._tail()}")
            time.sleep(_POLL_S)
        return self

    def cost(self) -> Cost:
        """Of the whole tree."""
        cpu, rss = 0.0, 0
        with suppress(psutil.NoSuchProcess):
            own = self._tree.cpu_times()
            cpu += own.children_user + own.children_system
            for process in (self._tree, *self._tree.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu += times.user + times.system
                    rss += process.memory_info().rss
        return Cost(cpu, rss)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; idempotent."""
        known = [self._tree]
        with suppress(psutil.NoSuchProcess):
            known += self._tree.children(recursive=True)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        for process in known:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


def free_port() -> int:
    """A port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(url: str, timeout: float = 5.0) -> bytes | None:
    """The body of a 200 answer to GET; ``None`` for anything else."""
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=timeout) as answer:
        body: bytes = answer.read()
        return body
    return None


def fake_upstream(index: int, folder: Path, environ: Mapping[str, str]) -> Server:
    """One fast fake upstream, listening."""
    port = free_port()
    command = [sys.executable, "-m", "cli.bench.gateway_upstream", "--port", str(port)]
    log = folder / f"upstream-{index}.log"
    server = Server.start(f"upstream-{index}", port, command, log, environ, Path(__file__).resolve().parents[2])
    return server.wait(lambda: page(f"http://127.0.0.1:{port}/health") is not None, 30)


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment; ``at`` is seconds since sampling began."""

    at: float
    rss_mb: float
    descriptors: int


class Sampler(threading.Thread):
    """Looks at a process every ``interval`` seconds until it is told to stop."""

    def __init__(self, pid: int, interval: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._interval = interval
        self._over = threading.Event()

    def run(self) -> None:
        """See :class:`threading.Thread`."""
        began = time.monotonic()
        with suppress(psutil.NoSuchProcess):
            while not self._over.wait(self._interval):
                rss = self._process.memory_info().rss / 1e6
                self.samples.append(Sample(time.monotonic() - began, rss, self._process.num_fds()))

    def stop(self) -> list[Sample]:
        """What was seen."""
        self._over.set()
        self.join()
        return self.samples
