"""Starting a vLLM server: what is run, and what is said when it does not come up. (Real servers: tests/live.)"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from envs.engines.vllm_process import VllmError, VllmOptions, VllmProcess, command, environment, free_port

OPTIONS = VllmOptions(Path("weights"), "small", 8001, max_num_seqs=3, extra=("--dtype", "float32"))


def process(tmp_path: Path, code: str, options: VllmOptions = OPTIONS) -> VllmProcess:
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=output, start_new_session=True)
    return VllmProcess(options, child, log)


def test_the_command_starts_the_module_with_priority_scheduling() -> None:
    words = command(OPTIONS)
    assert words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--scheduling-policy") + 1] == "priority"
    assert words[words.index("--max-num-seqs") + 1] == "3"
    assert words[-2:] == ["--dtype", "float32"]
    fcfs = command(VllmOptions(Path("weights"), "small", 8001, priority_scheduling=False))
    assert fcfs[fcfs.index("--scheduling-policy") + 1] == "fcfs"


def test_the_environment_is_offline_and_without_what_breaks_vllm() -> None:
    base = {"PATH": "/bin", "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "1"}
    made = environment(base, OPTIONS)
    assert made["PATH"] == "/bin"
    assert made["HF_HUB_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == made["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not {name for name in made if name.startswith("OPENBLAS")}
    assert "OMP_NUM_THREADS" not in made
    threaded = environment(base, VllmOptions(Path("weights"), "small", 8001, threads=1))
    assert (threaded["OMP_NUM_THREADS"], threaded["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = process(tmp_path, "print('\\n'.join(f'line {i}' for i in range(99))); raise SystemExit('out of memory')")
    with pytest.raises(VllmError, match=r"(?s)ended; its log .*server\.log.*line 98") as caught:
        server.wait_ready()
    assert "line 9\n" not in str(caught.value)


def test_a_server_that_never_gets_healthy_is_stopped(tmp_path: Path) -> None:
    server = process(tmp_path, "import time; time.sleep(600)", VllmOptions(Path("weights"), "small", free_port()))
    with pytest.raises(VllmError, match="was not healthy after 0 s"):
        server.wait_ready(0.01)
    assert not server.alive


def test_stop_ends_children_too_and_may_be_called_again(tmp_path: Path) -> None:
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    server = process(tmp_path, nested + "print('up', flush=True); time.sleep(600)")
    while "up" not in server.log_tail():
        assert server.alive
    server.stop()
    server.stop()
    assert not server.alive


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
    server = process(tmp_path, "import time; time.sleep(600)", VllmOptions(Path("weights"), "small", healthy_port))
    assert server.wait_ready() is server
    assert server.url == f"http://127.0.0.1:{healthy_port}"
    server.kill()
    assert not server.alive
