"""``headway serve``: the gateway."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.collector import quiet
from cli.missing import fail

if TYPE_CHECKING:
    import socket

    from controller.actuators import Actuator
    from controller.configuration import Configuration
    from gateway.application import GatewayApp
    from gateway.leases.peers import Place
    from gateway.reload import Load
    from gateway.server import Waits

_SWITCH_INTERVAL_S = 0.0001
"""Python's own 5 ms is the whole scoring budget: a busy event loop would keep the scoring thread waiting that long each
time it comes back from native code."""


def serve(
    config: Annotated[Path, typer.Option(help="The gateway's YAML file.", show_default=False)],
    host: Annotated[str | None, typer.Option(help="Address to bind, instead of the file's listen.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port, instead of the file's listen.port; 0 takes a free one.")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests may still take at the end.")
    ] = 30.0,
    log_level: Annotated[
        str | None, typer.Option(help="critical, error, warning, info or debug, instead of the file's log_level.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that serve the port together, as one control plane.")
    ] = 1,
    pin: Annotated[
        bool,
        typer.Option(help="Keep each of several processes on a core of its own; for machines with little else to do."),
    ] = False,
    member: Annotated[str | None, typer.Option(hidden=True)] = None,
    hub: Annotated[Path | None, typer.Option(hidden=True)] = None,
    fd: Annotated[list[int] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the gateway until it is told to end."""
    configuration = _configuration(config)
    import os
    import sys

    import uvicorn

    _more_descriptors()

    from gateway.draining import GatewayServer
    from gateway.server import protocol

    log_level = configuration.log_level if log_level is None else log_level
    if log_level not in uvicorn.config.LOG_LEVELS:
        raise fail(f"--log-level {log_level!r}: write one of {', '.join(uvicorn.config.LOG_LEVELS)}")
    _log_to_stderr(log_level, member)
    listen = configuration.listen
    address = listen.host if host is None else host
    port = listen.port if port is None else port
    if pin and not hasattr(os, "sched_setaffinity"):
        raise fail("--pin: this system does not let a process choose its cores; leave it out")
    if processes > 1 and member is None:
        _warn_if_open(address, configuration)
        sockets = _bound(address, port, listen.reuse_port)
        options = ["--config", str(config), "--host", address, "--grace", str(grace), "--log-level", log_level]
        options += ["--pin"] if pin else []
        raise typer.Exit(_supervise(configuration, processes, options, sockets, grace))
    if pin and member is not None:
        _stay_on_a_core(member)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    place = _place(member, hub)
    app = _application(configuration, lambda: _reloaded(config), place)
    if place is None:
        _warn_if_open(address, configuration)
    settings = uvicorn.Config(
        app,
        host=address,
        port=port,
        loop="uvloop",
        http=protocol(app, _waits(configuration), app.runtime.clients),
        lifespan="on",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
    )
    sockets = _inherited(fd) if fd else _bound(address, port, listen.reuse_port)
    server = GatewayServer(settings, app.runtime, grace_s=grace, drain_delay_s=listen.drain_delay_s, inherited=bool(fd))
    with quiet(), suppress(KeyboardInterrupt):  # raised once more when everything has ended
        server.run(sockets)
    if not server.started:
        raise typer.Exit(3)


def _more_descriptors() -> None:
    """As many as the system allows: a stream holds two, and shells give 1,024."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _configuration(config: Path) -> Configuration:
    import os

    from controller.configuration import load
    from controller.errors import ConfigurationError

    try:
        return load(config, os.environ)
    except ConfigurationError as error:
        raise fail(f"the configuration cannot be used\n{escape(str(error))}") from error


def _bound(address: str, port: int, reuse_port: bool) -> list[socket.socket]:
    from gateway.draining import bind

    try:
        return bind(address, port, reuse_port=reuse_port)
    except OSError as error:
        raise fail(f"cannot listen on {address}:{port}: {error.strerror}") from error


def _inherited(fds: list[int]) -> list[socket.socket]:
    import socket

    return [socket.socket(fileno=fd) for fd in fds]


def _place(member: str | None, hub: Path | None) -> Place | None:
    from gateway.leases.peers import Place

    return None if member is None or hub is None else Place(member, hub)


def _supervise(
    configuration: Configuration, processes: int, options: list[str], sockets: list[socket.socket], grace: float
) -> int:
    """Be the parent of the processes that serve; the exit status."""
    import asyncio
    import sys
    import tempfile

    from controller.leases_leader import Leader
    from gateway.leases.local import Hub
    from gateway.supervisor import Supervisor

    ending_s = grace + configuration.listen.drain_delay_s
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        path = Path(folder) / "hub"
        hub = Hub(path, Leader() if configuration.cluster.redis is None else None)

        def command(member: str) -> list[str]:
            fds = [str(listener.fileno()) for listener in sockets]
            listening = [word for number in fds for word in ("--fd", number)]
            shared = ["--processes", str(processes), "--member", member, "--hub", str(path), *listening]
            return [sys.executable, "-m", "cli.main", "serve", *options, *shared]

        return asyncio.run(Supervisor(command, processes, hub, sockets, grace_s=ending_s).run())


def _stay_on_a_core(member: str) -> None:
    """The member's number tells which: a process that moves from core to core finds nothing in their caches."""
    import os

    number, cores = int(member.partition(".")[0]), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def _waits(configuration: Configuration) -> Waits:
    from gateway.server import Waits

    listen = configuration.listen
    return Waits(listen.client_head_s, listen.client_body_s, listen.client_idle_s, listen.client_stall_s)


def _reloaded(config: Path) -> Configuration:
    """The file as it is now, with the environment as it was."""
    import os

    from controller.configuration import load

    return load(config, os.environ)


def _application(configuration: Configuration, load: Load, place: Place | None) -> GatewayApp:
    import prometheus_client

    from controller.errors import ConfigurationError, StageError
    from controller.store import ArtifactStore, shipped_models
    from gateway.application import create_app

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    store = ArtifactStore(shipped_models(), configuration.home)
    try:
        return create_app(configuration, store=store, actuator=_actuator(configuration), load=load, place=place)
    except (ConfigurationError, StageError) as error:
        raise fail(f"the configuration cannot be used\n{escape(str(error))}") from error


def _actuator(configuration: Configuration) -> Actuator | None:
    """What starts workers on this machine, where a pool wants that."""
    import os

    from controller.actuators.process import ProcessActuator
    from upstream.probe import answers

    options = configuration.process_actuators()
    if not options:
        return None
    home = configuration.home or Path.cwd()
    return ProcessActuator(options, logs=home / "logs", environ=os.environ, probe=answers)


def _warn_if_open(address: str, configuration: Configuration) -> None:
    """Say that anybody may administer the gateway; not where there are keys that could be had in that way."""
    import logging

    if configuration.admin.token is None and address not in ("127.0.0.1", "::1", "localhost"):
        if configuration.holds_keys():
            raise fail(
                f"the file holds keys, and whoever reaches {address} could have them through /admin; set admin.token"
            )
        logging.getLogger("headway.gateway").warning(
            "/admin and the status page are open to everybody who reaches %s; set admin.token to close them", address
        )


def _log_to_stderr(level: str, member: str | None = None) -> None:
    """Of several processes, each says which it is."""
    import logging

    who = "" if member is None else f"[{member}] "
    logging.basicConfig(level=level.upper(), format=f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s")
