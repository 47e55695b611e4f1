"""The gateway, the simulated worker and the demo in an environment that has only the serving install.

``make test`` builds that environment from this tree as a wheel and names its scripts' folder in ``SERVING_BIN``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVING_BIN = os.environ.get("SERVING_BIN")
pytestmark = [
    pytest.mark.skipif(SERVING_BIN is None, reason="no serving install: run it through `make test`"),
    pytest.mark.timeout(240),
]
ABSENT = ("torch", "stable_baselines3", "gymnasium", "sklearn", "onnx", "vllm", "matplotlib")


def _bin(name: str) -> str:
    assert SERVING_BIN is not None
    return str(Path(SERVING_BIN) / name)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWAY_", "PYTHON", "VIRTUAL"))}
    return {**kept, "HEADWAY_HOME": str(home)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(cwd: Path, url: str, *command: str) -> Iterator[None]:
    log = cwd / f"{command[1]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_bin("headway"), *command], cwd=cwd, env=_environment(cwd), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(url, process, log)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"{url} never became healthy:\n{log.read_text()}")


def _ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def test_no_training_library_is_installed(tmp_path: Path) -> None:
    code = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m)])"
    done = subprocess.run(
        [_bin("python"), "-c", code, *ABSENT],
        cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_gateway_serves_in_front_of_a_simulated_worker(tmp_path: Path) -> None:
    worker, gateway = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    configuration = {
        "listen": {"port": int(gateway.rsplit(":", 1)[1])},
        "pools": [{"name": "only", "model": "sim", "tier": 0, "workers": [{"url": worker}]}],
    }
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(configuration))
    start_worker = ("worker", "sim", "--profile", "h100-1b", "--model", "sim", "--port", worker.rsplit(":", 1)[1])
    with (
        _running(tmp_path, worker, *start_worker),
        _running(tmp_path, gateway, "serve", "--config", "gateway.yaml"),
    ):
        body = {"model": "auto", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 5}
        answer = _ask(gateway, body)
    assert answer["model"] == "sim"
    assert answer["usage"]["completion_tokens"] == 5


def test_the_demo_runs_and_loses_nothing(tmp_path: Path) -> None:
    command = [_bin("headway"), "demo", "--scale", "0.1", "--port", str(_free_port())]
    done = subprocess.run(
        [*command, "--json", "demo.json", "--logs", "logs"],
        cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["policy"]: row["metrics"] for row in json.loads((tmp_path / "demo.json").read_text())["results"]}
    assert set(rows) == {"static", "heuristic", "learned"}
    for metrics in rows.values():
        assert metrics["lost"]["value"] == 0
        assert metrics["completed"]["value"] + metrics["rejected"]["value"] == metrics["requests"]["value"] > 0
    assert rows["learned"]["scored"]["value"] > 0
