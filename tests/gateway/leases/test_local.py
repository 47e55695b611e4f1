from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.leases import Grant, GroupUse, Report, Served, TenantUse, WorkerUse
from controller.leases_leader import Leader
from gateway.leases import wire
from gateway.leases.local import Hub, LocalLink
from gateway.leases.wire import Ask, Tell, WireError
from tests.gateway.harness import until
from tests.gateway.leases.fleets import drive

ADD = Tell("add", "w", {"pool": "p", "url": "http://w", "max_inflight": 4, "started": False})
STARTED = Tell("add", "s", {"pool": "p", "url": "http://s", "max_inflight": 4, "started": True})


class Process:
    """A link and what it heard."""

    def __init__(self, folder: Path, name: str) -> None:
        self.link = LocalLink(folder / "hub", name)
        self.heard: list[Tell] = []
        self.grants: list[Grant] = []
        self.link.told = self.heard.append
        self.link.answers = {"name": lambda: name}

    async def start(self) -> Process:
        await self.link.start(self.grants.append)
        await until(lambda: self.link.connected)
        return self


@asynccontextmanager
async def hub(folder: Path, leader: Leader | None = None) -> AsyncIterator[Hub]:
    made = Hub(folder / "hub", leader)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def with_processes(folder: Path, scenario: Callable[[Hub, Process, Process, Process], Awaitable[None]]) -> None:
    async def run() -> None:
        async with hub(folder, Leader()) as made:
            processes = [await Process(folder, f"{index}.1").start() for index in range(3)]
            await until(lambda: len(made.seen) == 3)
            await scenario(made, *processes)
            for process in processes:
                await process.link.close()

    drive(run, 20.0)


def test_what_one_tells_the_others_hear(tmp_path: Path) -> None:
    async def scenario(hub: Hub, first: Process, second: Process, third: Process) -> None:
        for tell in (ADD, Tell("drain", "w"), Tell("undrain", "w")):
            first.link.tell(tell)
        await until(lambda: len(second.heard) == len(third.heard) == 3)
        assert [tell.what for tell in second.heard] == ["add", "drain", "undrain"]
        assert second.heard[0] == ADD
        assert not first.heard

    with_processes(tmp_path, scenario)


@pytest.mark.parametrize(
    "told, replayed",
    [
        ([ADD], ["add"]),
        ([ADD, Tell("drain", "w")], ["add", "drain"]),
        ([ADD, Tell("drain", "w"), Tell("undrain", "w")], ["add"]),
        ([ADD, Tell("leave", "w", {"grace_s": 1.0})], []),
        ([Tell("remove", "listed")], ["remove"]),
        ([Tell("drain", "listed"), Tell("remove", "listed")], ["remove"]),
        ([Tell("remove", "listed"), ADD, Tell("reload", "")], ["add"]),
    ],
)
def test_who_is_started_later_hears_what_still_holds(tmp_path: Path, told: list[Tell], replayed: list[str]) -> None:
    async def scenario(hub: Hub, first: Process, second: Process, third: Process) -> None:
        for tell in told:
            first.link.tell(tell)
        await until(lambda: len(second.heard) == len(told))
        late = await Process(tmp_path, "0.2").start()
        await late.link.ask("name")
        assert [tell.what for tell in late.heard] == replayed
        await late.link.close()

    with_processes(tmp_path, scenario)


def test_with_a_process_its_workers_are_gone(tmp_path: Path) -> None:
    async def scenario(hub: Hub, first: Process, second: Process, third: Process) -> None:
        first.link.tell(STARTED)
        first.link.tell(ADD)
        await until(lambda: len(second.heard) == 2)
        hub.gone("0.1")
        await until(lambda: len(second.heard) == 3)
        assert second.heard[-1] == Tell("remove", "s")

    with_processes(tmp_path, scenario)


def test_everybody_else_answers(tmp_path: Path) -> None:
    async def scenario(hub: Hub, first: Process, second: Process, third: Process) -> None:
        assert sorted(await first.link.ask("name")) == ["1.1", "2.1"]
        assert sorted(await third.link.ask("name")) == ["0.1", "1.1"]
        assert await first.link.ask("something else") == ()

    with_processes(tmp_path, scenario)


def test_a_cut_link_is_made_again_and_grants_come(tmp_path: Path) -> None:
    async def scenario(hub: Hub, first: Process, second: Process, third: Process) -> None:
        use = WorkerUse("p", 4, 0, 0, True)
        first.link.send(Report("0.1", 1, (-1, -1), {"w": use}))
        await until(lambda: bool(first.grants))
        assert first.grants[-1].workers == {"w": 4}
        assert not second.grants
        for writer in tuple(hub._links):
            writer.transport.abort()
        await until(lambda: not first.link.connected)
        await until(lambda: first.link.connected)
        first.grants.clear()
        first.link.send(Report("0.1", 2, (-1, -1), {"w": use}))
        await until(lambda: bool(first.grants))

    with_processes(tmp_path, scenario)


def test_nobody_answers_where_there_is_no_hub(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = LocalLink(tmp_path / "none", "0.1")
        await link.start()
        assert await link.ask("name") == ()
        link.tell(ADD)
        await link.close()

    drive(scenario, 10.0)


def test_messages_survive_the_wire() -> None:
    report = Report(
        "a#1",
        3,
        (2, 7),
        {"w": WorkerUse("p", 4, 2, 1, True)},
        {"p": {"t": GroupUse(1, 2, 4.0)}},
        {"=t": TenantUse(1000, 500, 0, 2.5)},
        {"p": {"t": Served(120.5, 3.0)}},
        scales=True,
    )
    grant = Grant(
        "a#1", (2, 8), 3, {"w": 2}, {"=t": (500, 1000)}, {"p": {"t": 1.5}}, {"p": 1.5}, {"p": (1, 2)}, {"w": 1}
    )
    for message in (report, grant, ADD, Ask(1, "metrics")):
        assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'["Nothing", {}]', b'["Ask", {}]', b'["Ask", 3]', b"\xff"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(data)


def test_a_hub_lives_on_when_it_is_sent_nonsense(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hub(tmp_path, Leader()) as made:
            _, writer = await asyncio.open_unix_connection(tmp_path / "hub")
            writer.write(b"\x00\x00\x00\x02{}")
            await writer.drain()
            process = await Process(tmp_path, "0.1").start()
            await until(lambda: made.seen == {"0.1"})
            writer.close()
            await process.link.close()

    drive(scenario, 10.0)
