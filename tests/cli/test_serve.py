from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", "serve", *arguments]


def refusal(*arguments: str) -> str:
    """What it says on stderr, having ended with status 2."""
    ended = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    return ended.stderr


def test_a_bad_configuration_ends_it_with_the_line_and_the_right_name(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("pools:\n  - {name: p, model: m, tier: 0, workerz: []}\n")
    said = refusal("--config", str(file))
    assert f"{file}:2: pools[0].workerz: unknown key; did you mean 'workers'?" in said.replace("\n", "")
    assert "Traceback" not in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refusal("--config", str(tmp_path / "none.yaml"))


def test_it_serves_and_ends_when_it_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "gateway.yaml"
    file.write_text("pools:\n  - {name: p, model: m, tier: 0, workers: [{url: 'http://127.0.0.1:1'}]}\n")
    environment = {**os.environ, "HEADWAY_LISTEN__PORT": str(port), "HEADWAY_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command("--config", str(file)), cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        assert asked(process, f"http://127.0.0.1:{port}/health") == {"status": "degraded", "ready_workers": {"p": 0}}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


def asked(process: subprocess.Popen[bytes], url: str) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, "the gateway ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            time.sleep(0.1)
    return pytest.fail("the gateway did not answer")
