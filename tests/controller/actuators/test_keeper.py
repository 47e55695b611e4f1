from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from controller.actuators import keeper


def _start(code: str, grace_s: float = 5.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        keeper.kept([sys.executable, "-IS", "-c", code], grace_s),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _line(kept: subprocess.Popen[str]) -> str:
    assert kept.stdout is not None
    return kept.stdout.readline().strip()


@pytest.mark.parametrize(
    ("code", "status"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.abort()", -signal.SIGABRT)],
)
def test_it_ends_as_its_command_did(code: str, status: int) -> None:
    with _start(code) as kept:
        assert kept.wait(20) == status


def test_a_command_that_cannot_be_run_is_named() -> None:
    command = keeper.kept(["no-such-program"], 1.0)
    ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (127, "no-such-program: No such file or directory\n")


def test_sigterm_to_the_group_reaches_the_command_and_its_status_comes_back() -> None:
    code = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True)\ntime.sleep(600)"
    )
    with _start(code) as kept:
        assert _line(kept) == "up"
        os.killpg(kept.pid, signal.SIGTERM)
        assert kept.wait(20) == 7


def test_when_the_starter_is_gone_the_command_gets_sigterm() -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"bye\\n"), os._exit(0)))
print("up", flush=True)
time.sleep(600)
"""
    with _start(code) as kept:
        assert _line(kept) == "up"
        assert kept.stdin is not None
        kept.stdin.close()
        assert _line(kept) == "bye"
        assert kept.wait(20) == -signal.SIGKILL  # it ends with whatever else is left in its group


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
    with _start(code, 0.1) as kept:
        assert _line(kept) == "up"
        assert kept.stdin is not None
        kept.stdin.close()
        assert kept.wait(20) == -signal.SIGKILL
        assert _line(kept) == ""  # the pipe is closed: nothing holds its other end


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_a_command_ends_with_a_keeper_that_was_killed_alone() -> None:
    code = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    with _start(code) as kept:
        assert _line(kept) == "up"
        os.kill(kept.pid, signal.SIGKILL)
        assert _line(kept) == ""
