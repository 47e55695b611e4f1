"""Starting and stopping real vLLM servers on this machine, on the CPU or a GPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from controller.actuators.keeper import kept, signal_group

_HARMFUL = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
"""Set on some machines. The first two are for their own numpy and make vLLM's CPU kernels fail; with the last, each of
a server's processes would compile thousands of modules anew, and a start take twice as long."""
_POLL_S = 0.5
_ORPHAN_GRACE_S = 10.0
"""From SIGTERM to SIGKILL for a server whose starter is gone."""
_TAIL_LINES = 30


class VllmError(RuntimeError):
    """A server did not become healthy. Carries the end of its log."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What to serve, and how. ``max_num_seqs`` is how many requests run at once; more wait inside the server."""

    model: Path
    served_name: str
    port: int
    host: str = "127.0.0.1"
    max_num_seqs: int = 16
    max_model_len: int = 2048
    priority_scheduling: bool = True
    kv_cache_gib: int = 1
    """On the CPU only; a GPU's is what ``--gpu-memory-utilization`` leaves."""
    eager: bool = True
    """No compilation: a quicker start, and on a GPU slower steps."""
    threads: int | None = None
    """CPU threads for the model; ``None`` leaves the choice to vLLM (all cores, bound to them).

    With a number given, the model runs in the engine's own process: no third one is started, and none spins on shared
    memory while another needs the core."""
    sleep_mode: bool = False
    """Serve ``/sleep`` and ``/wake_up``, which anybody may then call; vLLM sleeps on GPUs only."""
    extra: tuple[str, ...] = ()
    """Further arguments, as on the command line."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def command(options: VllmOptions) -> list[str]:
    """The server's command line. The module is started as such: vLLM's own script needs a ``vllm`` distribution."""
    policy = "priority" if options.priority_scheduling else "fcfs"
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(options.model), "--served-model-name", options.served_name),
        *("--host", options.host, "--port", str(options.port)),
        *("--max-num-seqs", str(options.max_num_seqs), "--max-model-len", str(options.max_model_len)),
        *("--scheduling-policy", policy, *(["--enforce-eager"] if options.eager else [])),
        *(["--enable-sleep-mode"] if options.sleep_mode else []),
        *options.extra,
    ]


def environment(base: Mapping[str, str], options: VllmOptions) -> dict[str, str]:
    """The environment a server is started with: ``base``, offline, without usage reports and harmful variables."""
    kept = {name: value for name, value in base.items() if name not in _HARMFUL}
    kept |= {
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if options.sleep_mode:
        kept["VLLM_SERVER_DEV_MODE"] = "1"
    if options.threads is not None:
        kept |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(options.threads),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return kept


class VllmProcess:
    """One running server. It has its own process group, so that :meth:`stop` takes all of it, and a keeper, which ends
    it when this process ends in whatever way, or drops this object."""

    def __init__(self, options: VllmOptions, process: subprocess.Popen[bytes], log: Path) -> None:
        self.options = options
        self.log = log
        self._process = process
        self._ended = False

    @classmethod
    def start(cls, options: VllmOptions, log: Path, base: Mapping[str, str] | None = None) -> Self:
        """Start a server without waiting for it; its output goes to ``log``."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                kept(command(options), _ORPHAN_GRACE_S),
                env=environment(os.environ if base is None else base, options),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(options, process, log)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.options.host}:{self.options.port}"

    @property
    def alive(self) -> bool:
        """Whether the process is still there; it need not be healthy."""
        return self._process.poll() is None

    def healthy(self) -> bool:
        """Whether ``/health`` answers 200 now."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, timeout_s: float = 300.0) -> Self:
        """Wait until it is healthy.

        Raises:
            VllmError: it ended, or is not healthy after ``timeout_s``; it is stopped then.
        """
        limit = time.monotonic() + timeout_s
        while not self.healthy():
            if not self.alive or time.monotonic() > limit:
                why = "ended" if not self.alive else f"was not healthy after {timeout_s:.0f} s"
                self.stop()
                raise VllmError(f"vLLM at {self.url} {why}; its log ({self.log}) ends with:\n{self.log_tail()}")
            time.sleep(_POLL_S)
        return self

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of its output."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end()

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask it to end, and make it end after ``grace_s``. Does nothing if it was stopped before."""
        if self.alive:
            signal_group(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._end()

    def _end(self) -> None:
        """Once only: afterwards the group's number may be somebody else's."""
        if not self._ended:
            signal_group(self._process.pid, signal.SIGKILL)  # the engine's own process may outlive the server's
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._ended = True
