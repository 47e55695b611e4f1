from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from controller.actuators import Exit
from controller.actuators.process import ProcessActuator
from controller.configuration import ProcessActuatorOptions
from controller.errors import ActuatorError, NoFreePort, StartFailed, UnknownPool
from tests.controller.actuators.servers import free_ports, options, probe, processes_alive, server

ROOT = Path(__file__).parents[3]
IGNORES_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@contextlib.asynccontextmanager
async def actuator(tmp_path: Path, **pools: ProcessActuatorOptions) -> AsyncIterator[ProcessActuator]:
    made = ProcessActuator(pools, logs=tmp_path / "logs", environ=os.environ, probe=probe)
    try:
        yield made
    finally:
        await made.close()


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


def group_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    return any(process.group == group for process in processes_alive())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


def test_a_worker_is_announced_when_it_is_healthy_and_gone_when_it_is_stopped(tmp_path: Path) -> None:
    async def work() -> None:
        chosen = options(server(), max_inflight=7, priority_scheduling=True)
        async with actuator(tmp_path, small=chosen) as processes:
            assert processes.pools == {"small"}
            spec = await processes.start("small")
            assert (spec.pool, spec.max_inflight, spec.priority_scheduling) == ("small", 7, True)
            assert await probe(f"{spec.url}/health")
            assert "listening small:1" in (tmp_path / "logs" / "small-1.log").read_text()
            group = processes.pid(spec.name)
            assert group is not None
            await processes.stop(spec.name)
            await processes.stop(spec.name)
            assert not group_alive(group)
            assert not await probe(f"{spec.url}/health")
            assert processes.exits() == ()

    run(work())


def test_it_works_in_the_event_loop_of_the_gateway(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server())) as processes:
            spec = await processes.start("small")
            group = processes.pid(spec.name)
            assert group is not None
            _kill_server(group, signal.SIGKILL)
            assert (await _first_exit(processes)).code == -signal.SIGKILL
            second = processes.pid((await processes.start("small")).name)
            assert second is not None
            assert group_alive(second)
        assert not group_alive(second)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_workers_get_names_and_ports_of_their_own_and_ports_come_back(tmp_path: Path) -> None:
    async def work() -> None:
        ports = free_ports(2)
        async with actuator(tmp_path, small=options(server(), ports), large=options(server(), ports)) as processes:
            one, two = await asyncio.gather(processes.launch("small"), processes.launch("large"))
            assert one.url != two.url
            with pytest.raises(NoFreePort, match=f"every port of {ports} is taken"):
                await processes.launch("small")
            await processes.stop(one.name)
            again = await processes.launch("small")
            assert (again.url, again.name) == (one.url, "small:2")

    run(work())


def test_a_port_on_which_a_server_is_still_starting_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        ports = free_ports(2)
        first = int(ports.split("-")[0])
        with socket.socket() as starting:  # vLLM binds first, loads its model, and listens minutes later
            starting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            starting.bind(("127.0.0.1", first))
            async with actuator(tmp_path, small=options(server(), ports)) as processes:
                assert (await processes.launch("small")).url == f"http://127.0.0.1:{first + 1}"

    run(work())


def test_a_port_whose_connections_have_only_just_ended_is_free(tmp_path: Path) -> None:
    async def work() -> None:
        port = int(free_ports(1).split("-")[0])
        with (
            socket.create_server(("127.0.0.1", port)) as listener,
            socket.create_connection(("127.0.0.1", port)) as client,
        ):
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
        async with actuator(tmp_path, small=options(server(), f"{port}-{port}")) as processes:
            assert (await processes.launch("small")).url == f"http://127.0.0.1:{port}"

    run(work())


def test_a_port_that_another_program_holds_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        ports = free_ports(2)
        first = int(ports.split("-")[0])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", first))
            taken.listen()
            async with actuator(tmp_path, small=options(server(), ports)) as processes:
                assert (await processes.launch("small")).url == f"http://127.0.0.1:{first + 1}"

    run(work())


def test_a_process_that_ends_at_once_fails_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server("sys.exit('no GPU was found')"))) as processes:
            with pytest.raises(StartFailed, match="small:1 ended with status 1") as caught:
                await processes.start("small")
            assert "no GPU was found" in caught.value.log
            assert processes.exits() == ()
            assert processes.pid("small:1") is None

    run(work())


def test_a_process_that_never_answers_is_ended_and_reported(tmp_path: Path) -> None:
    async def work() -> None:
        chosen = options(server("print('still loading', flush=True)", status=503), start_timeout_s=0.4)
        async with actuator(tmp_path, small=chosen) as processes:
            spec = await processes.launch("small")
            group = processes.pid(spec.name)
            with pytest.raises(StartFailed, match=r"did not answer .*/health within 0.4 s"):
                await processes.ready(spec.name)
            assert group is not None
            assert not group_alive(group)

    run(work())


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(("no-such-program", "{port}"))) as processes:
            with pytest.raises(StartFailed, match="no-such-program: No such file or directory"):
                await processes.start("small")

    run(work())


def test_a_pool_without_a_command_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server())) as processes:
            with pytest.raises(UnknownPool, match="large"):
                await processes.launch("large")

    run(work())


def test_a_folder_that_cannot_hold_logs_is_an_actuators_error(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "logs").write_text("not a folder")
        async with actuator(tmp_path, small=options(server(), free_ports(1))) as processes:
            for _ in range(2):  # the port of a failed launch is free again
                with pytest.raises(ActuatorError, match=r"small:\d cannot be started"):
                    await processes.launch("small")

    run(work())


def test_one_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server(IGNORES_TERM), stop_grace_s=0.1)) as processes:
            spec = await processes.start("small")
            group = processes.pid(spec.name)
            assert group is not None
            await processes.stop(spec.name)
            await until(lambda: not group_alive(group))

    run(work())


def test_a_crash_is_noticed_with_its_log_and_leaves_no_helpers(tmp_path: Path) -> None:
    async def work() -> None:
        helper = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
        async with actuator(tmp_path, small=options(server(helper))) as processes:
            spec = await processes.start("small")
            group = processes.pid(spec.name)
            assert group is not None
            _kill_server(group, signal.SIGSEGV)
            ended = await _first_exit(processes)
            assert (ended.worker, ended.pool, ended.code) == (spec.name, "small", -signal.SIGSEGV)
            assert "listening" in ended.log
            await until(lambda: not group_alive(group))
            assert processes.exits() == ()

    run(work())


async def _first_exit(processes: ProcessActuator) -> Exit:
    async with asyncio.timeout(20):
        while not (exits := processes.exits()):
            await asyncio.sleep(0.02)
    (ended,) = exits
    return ended


def _kill_server(keeper: int, number: signal.Signals) -> None:
    (server_process,) = (process for process in processes_alive() if process.parent == keeper)
    os.kill(server_process.id, number)


def test_close_stops_everything(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server())) as processes:
            specs = [await processes.launch("small"), await processes.launch("small")]
            groups = [processes.pid(spec.name) for spec in specs]
        assert not any(group_alive(group) for group in groups if group is not None)

    run(work())


def test_stopping_one_that_is_still_starting_fails_its_start(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server(status=503))) as processes:
            spec = await processes.launch("small")
            waiting = asyncio.create_task(processes.ready(spec.name))
            await asyncio.sleep(0)
            await processes.stop(spec.name)
            with pytest.raises(StartFailed):
                await waiting

    run(work())


def test_variables_are_inherited_set_and_taken_away(tmp_path: Path) -> None:
    async def work() -> None:
        says = "print({k: v for k, v in os.environ.items() if k.startswith('T_')}, flush=True)"
        chosen = options(server(says), environment={"T_SET": "own", "T_GONE": None})
        environ = {**os.environ, "T_KEPT": "kept", "T_SET": "other", "T_GONE": "there"}
        processes = ProcessActuator({"small": chosen}, logs=tmp_path, environ=environ, probe=probe)
        try:
            await processes.start("small")
        finally:
            await processes.close()
        assert "{'T_KEPT': 'kept', 'T_SET': 'own'}" in (tmp_path / "small-1.log").read_text()

    run(work())


def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with actuator(tmp_path, small=options(server("print('again')"))) as processes:
            await processes.launch("small")

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "small-1.log").write_text("why it crashed")
    run(work())
    assert (tmp_path / "logs" / "small-1.log.previous").read_text() == "why it crashed"


_STARTER = """
import asyncio, os, sys
from pathlib import Path
from controller.actuators.process import ProcessActuator
from tests.controller.actuators.servers import options, probe, server

async def main():
    chosen = {"small": options(server(), sys.argv[2])}
    processes = ProcessActuator(chosen, logs=Path(sys.argv[1]), environ=os.environ, probe=probe)
    spec = await processes.start("small")
    print(processes.pid(spec.name), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_worker_outlives_a_gateway_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STARTER, str(tmp_path), free_ports(1)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        group = int(starter.stdout.readline())
        assert group_alive(group)
        starter.kill()
    run(until(lambda: not group_alive(group)))
