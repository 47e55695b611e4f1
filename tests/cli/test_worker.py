"""``headway worker sim`` as a process, and what it says when it cannot start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import typer

from cli.worker import sim
from tests.cli.simulate.studies import profile_file

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def _serving(folder: Path, *options: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[bytes]]]:
    """The command as a process, and its report; told to stop at the end."""
    info = folder / "info.json"
    command = [sys.executable, "-m", "cli.main", "worker", "sim", "--port", "0", "--json", str(info), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not info.exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield json.loads(info.read_text()), process
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stderr:
            process.stderr.close()


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    options = ["--profile", "h100-1b", "--model", "tiny", "--max-num-seqs", "4"]
    with _serving(tmp_path, *options) as (report, process):
        assert report["settings"]["max_num_seqs"] == 4
        assert report["settings"]["enable_sleep_mode"] is False
        models = _json(report["url"] + "/v1/models")
        assert models["data"][0]["id"] == "tiny"
        with pytest.raises(HTTPError) as refused:
            _json(report["url"] + "/is_sleeping")
        assert refused.value.code == 404
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode in (0, -15)
    assert b"tiny (h100-1b, simulated)" in said


def test_it_sleeps_and_wakes_where_that_was_asked_for(tmp_path: Path) -> None:
    quick = profile_file(tmp_path, sleep_s=0.01, wake_s=0.01)
    with _serving(tmp_path, "--profile", str(quick), "--enable-sleep-mode") as (report, _):
        assert report["settings"]["enable_sleep_mode"] is True
        asleep = [_json(report["url"] + "/is_sleeping")]
        for endpoint in ("/sleep?level=1", "/wake_up"):
            _json(report["url"] + endpoint, "POST")
            asleep.append(_json(report["url"] + "/is_sleeping"))
    assert [answer["is_sleeping"] for answer in asleep] == [False, True, False]


def _json(url: str, method: str = "GET") -> Any:
    """What it answers, once it listens.

    Raises:
        HTTPError: it answers with an error.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as response:
                return json.loads(response.read())
        except HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)


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
