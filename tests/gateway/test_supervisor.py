"""The parent, with children that are a few lines of Python."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controller.leases_leader import Leader
from gateway.leases.local import Hub
from gateway.supervisor import Supervisor

JOIN = """
import asyncio, signal, sys
sys.path.insert(0, {root!r})
from gateway.leases.local import LocalLink
from pathlib import Path

async def main():
    link = LocalLink(Path({hub!r}), sys.argv[1])
    await link.start()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: Path({folder!r}, "hup-" + sys.argv[1]).touch())
    while not link.connected:
        await asyncio.sleep(0.01)
    Path({folder!r}, "up-" + sys.argv[1]).touch()
    await ended.wait()
    await link.close()

asyncio.run(main())
"""
ROOT = str(Path(__file__).resolve().parents[2])


def supervised(folder: Path, scenario: Callable[[Supervisor], Awaitable[None]], code: str = JOIN) -> int:
    """Two children; the exit status once the scenario has ended it."""
    hub = Hub(folder / "hub", Leader())
    program = code.format(root=ROOT, hub=str(folder / "hub"), folder=str(folder))

    def command(member: str) -> list[str]:
        return [sys.executable, "-c", program, member]

    async def main() -> int:
        parent = Supervisor(command, 2, hub, (), grace_s=2.0)
        async with asyncio.timeout(30):
            running = asyncio.ensure_future(parent.run())
            await scenario(parent)
            return await running

    return asyncio.run(main())


async def there(folder: Path, *names: str) -> None:
    while not all((folder / name).exists() for name in names):
        await asyncio.sleep(0.01)


def test_it_ends_its_children_and_then_itself(tmp_path: Path) -> None:
    async def scenario(parent: Supervisor) -> None:
        await there(tmp_path, "up-0.1", "up-1.1")
        assert (tmp_path / "hub").stat().st_mode & 0o777 == 0o600
        os.kill(os.getpid(), signal.SIGHUP)
        await there(tmp_path, "hup-0.1", "hup-1.1")
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervised(tmp_path, scenario) == 0


def test_a_dead_child_is_replaced(tmp_path: Path) -> None:
    async def scenario(parent: Supervisor) -> None:
        await there(tmp_path, "up-0.1", "up-1.1")
        os.kill(parent.children["1.1"], signal.SIGKILL)
        await there(tmp_path, "up-1.2")
        assert set(parent.children) == {"0.1", "1.2"}
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervised(tmp_path, scenario) == 0


def test_children_that_cannot_start_end_it_with_their_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(parent: Supervisor) -> None:
        await asyncio.sleep(0)

    assert supervised(tmp_path, scenario, "import sys; sys.exit(2)") == 2
    assert "could not start (status 2)" in caplog.text


def test_one_that_is_told_to_end_is_replaced_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(parent: Supervisor) -> None:
        await there(tmp_path, "up-0.1", "up-1.1")
        os.kill(parent.children["0.1"], signal.SIGTERM)
        await there(tmp_path, "up-0.2")
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervised(tmp_path, scenario) == 0
    assert "the next one starts in" not in caplog.text
