"""Runs one command and sees to it that nothing of it outlives whoever started this, however that ended.

    python keeper.py GRACE_SECONDS COMMAND…

Standard input is a pipe that the starter holds open: when it closes, the starter is gone, and the command's process
group is ended: SIGTERM, and SIGKILL after the grace. The starter itself stops the command by SIGTERM to the group,
which this process sits out; it exits as the command did. Should this process be killed alone, Linux sends the command
SIGTERM. A script of the standard library only; starters import :func:`kept` and :func:`signal_group` from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127


def kept(command: Iterable[str], grace_s: float) -> list[str]:
    """The command line that runs ``command`` under a keeper, with so many seconds from SIGTERM to SIGKILL.

    Start it in a session of its own, with a pipe as its standard input whose other end stays open as long as the
    command is wanted.
    """
    return [sys.executable, "-IS", __file__, str(grace_s), *command]


def signal_group(leader: int, number: signal.Signals) -> None:
    """To the keeper of this process id and all that runs under it; nothing if there is nothing left."""
    # The group outlives its leader while any process is left in it, so its id cannot mean another group yet.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def main(arguments: list[str]) -> None:
    """Run the command, and end as it ends."""
    grace_s, command = float(arguments[0]), arguments[1:]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        # No other thread runs yet, so Python code between fork and exec is safe.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_follow_the_keeper)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(_NOT_STARTED)
    orphaned = threading.Event()
    threading.Thread(target=_end_when_orphaned, args=(orphaned, grace_s), daemon=True).start()
    code = child.wait()
    if orphaned.is_set():
        os.killpg(0, signal.SIGKILL)
    _exit_as(code)


def _end_when_orphaned(orphaned: threading.Event, grace_s: float) -> None:
    while os.read(0, 64):
        pass
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


def _follow_the_keeper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_as(code: int) -> None:
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
