"""``headway worker sim`` as a process, and what it says when it cannot start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import typer

from cli.worker import sim

ROOT = Path(__file__).resolve().parents[2]


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    info = tmp_path / "info.json"
    options = ["--profile", "h100-1b", "--port", "0", "--model", "tiny", "--max-num-seqs", "4", "--json", str(info)]
    command = [sys.executable, "-m", "cli.main", "worker", "sim", *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not info.exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        report = json.loads(info.read_text())
        assert report["settings"]["max_num_seqs"] == 4
        models = json.loads(_get(report["url"] + "/v1/models"))
        assert models["data"][0]["id"] == "tiny"
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode in (0, -15)
    assert b"tiny (h100-1b, simulated)" in said


def _get(url: str) -> bytes:
    for attempt in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                body: bytes = response.read()
                return body
        except OSError:
            if attempt == 99:
                raise
            time.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize(
    "options, code, message",
    [
        ({"profile": "h100-9b"}, 1, "h100-8b"),
        ({"profile": "./nowhere"}, 1, "no artifact at nowhere"),
        ({"scheduling_policy": "lifo"}, 2, "fcfs, priority"),
        ({"max_num_seqs": 100_000}, 2, "max_num_batched_tokens"),
        ({"tasks_split": "exam", "tasks_count": 1}, 2, "--tasks-split exam"),
    ],
)
def test_wrong_options_say_what_would_be_right(
    options: dict[str, object], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        sim(**{"port": 0, **options})  # type: ignore[arg-type]
    assert ended.value.exit_code == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_taken_port_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(typer.Exit) as ended:
            sim(port=taken.getsockname()[1])
    assert ended.value.exit_code == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
