"""Starting a vLLM server: what is run, and what is said when it does not come up. (Real servers: tests/live.)"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from envs.engines.vllm_process import VllmError, VllmOptions, VllmProcess, command, environment, free_port
from tests.controller.actuators.servers import processes_alive

OPTIONS = VllmOptions(Path("weights"), "small", 8001, max_num_seqs=3, extra=("--dtype", "float32"))


PARENT = """
import sys, time
from pathlib import Path
from envs.engines.vllm_process import VllmOptions, VllmProcess

server = VllmProcess.start(VllmOptions(Path("weights"), "small", 8001), Path(sys.argv[1]))
time.sleep(600)
"""


def fake(tmp_path: Path, code: str) -> dict[str, str]:
    """An environment in which ``vllm.entrypoints.openai.api_server`` is a script of this code."""
    module = tmp_path / "fake" / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    for package in list(module.parents)[:3]:
        (package / "__init__.py").touch()
    module.write_text(code)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "fake")}


def start(tmp_path: Path, code: str, options: VllmOptions = OPTIONS) -> VllmProcess:
    return VllmProcess.start(options, tmp_path / "server.log", fake(tmp_path, code))


def test_the_command_starts_the_module_with_priority_scheduling() -> None:
    words = command(OPTIONS)
    assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--scheduling-policy") + 1] == "priority"
    assert words[words.index("--max-num-seqs") + 1] == "3"
    assert words[-2:] == ["--dtype", "float32"]
    fcfs = command(VllmOptions(Path("weights"), "small", 8001, priority_scheduling=False))
    assert fcfs[fcfs.index("--scheduling-policy") + 1] == "fcfs"


def test_sleep_mode_takes_an_option_and_a_variable() -> None:
    sleepy = replace(OPTIONS, sleep_mode=True)
    assert "--enable-sleep-mode" in command(sleepy)
    assert environment({}, sleepy)["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--enable-sleep-mode" not in command(OPTIONS)
    assert "VLLM_SERVER_DEV_MODE" not in environment({}, OPTIONS)


def test_the_environment_is_offline_and_without_what_breaks_vllm() -> None:
    base = {"PATH": "/bin", "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    made = environment(base, OPTIONS)
    assert made["PATH"] == "/bin"
    assert made["HF_HUB_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == made["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not {name for name in made if name.startswith(("OPENBLAS", "PYTHONDONT"))}
    assert not {"OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"} & set(made)
    threaded = environment(base, VllmOptions(Path("weights"), "small", 8001, threads=1))
    assert (threaded["OMP_NUM_THREADS"], threaded["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")
    assert threaded["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = start(tmp_path, "print('\\n'.join(f'line {i}' for i in range(99))); raise SystemExit('out of memory')")
    with pytest.raises(VllmError, match=r"(?s)ended; its log .*server\.log.*line 98") as caught:
        server.wait_ready()
    assert "line 9\n" not in str(caught.value)


def test_a_server_that_never_gets_healthy_is_stopped(tmp_path: Path) -> None:
    server = start(tmp_path, "import time; time.sleep(600)", VllmOptions(Path("weights"), "small", free_port()))
    with pytest.raises(VllmError, match="was not healthy after 0 s"):
        server.wait_ready(0.01)
    assert not server.alive


NESTED = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def pids(log: Path, running: Callable[[], bool]) -> set[int]:
    """The processes that ``NESTED`` says it consists of, once it has said so."""
    while not (said := re.search(r"^up (\d+) (\d+)\n", log.read_text() if log.exists() else "")):
        assert running()
        time.sleep(0.02)
    return {int(word) for word in said.groups()}


def alive(ids: set[int]) -> set[int]:
    return ids & {process.id for process in processes_alive()}


def test_stop_ends_children_too_and_may_be_called_again(tmp_path: Path) -> None:
    server = start(tmp_path, NESTED)
    ids = pids(server.log, lambda: server.alive)
    assert len(alive(ids)) == 2
    server.stop()
    server.stop()
    assert not server.alive
    assert not alive(ids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    log, environ = tmp_path / "server.log", fake(tmp_path, NESTED)
    path = os.pathsep.join([environ["PYTHONPATH"], *sys.path])
    with subprocess.Popen([sys.executable, "-c", PARENT, str(log)], env={**environ, "PYTHONPATH": path}) as parent:
        ids = pids(log, lambda: parent.poll() is None)
        assert len(alive(ids)) == 2
        parent.send_signal(number)
    while alive(ids):
        time.sleep(0.02)


@pytest.fixture
def healthy_port() -> Iterator[int]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_healthy_server_is_ready_at_once_and_can_be_killed(tmp_path: Path, healthy_port: int) -> None:
    server = start(tmp_path, "import time; time.sleep(600)", VllmOptions(Path("weights"), "small", healthy_port))
    assert server.wait_ready() is server
    assert server.url == f"http://127.0.0.1:{healthy_port}"
    server.kill()
    assert not server.alive
