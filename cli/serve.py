"""``headway serve``: the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.missing import fail

if TYPE_CHECKING:
    from controller.actuators import Actuator
    from controller.configuration import Configuration
    from gateway.application import GatewayApp

_SWITCH_INTERVAL_S = 0.0005
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
    log_level: Annotated[str, typer.Option(help="critical, error, warning, info or debug.")] = "info",
) -> None:
    """Run the gateway until it is told to end."""
    configuration = _configuration(config)
    import sys

    import uvicorn

    if log_level not in uvicorn.config.LOG_LEVELS:
        raise fail(f"--log-level {log_level!r}: write one of {', '.join(uvicorn.config.LOG_LEVELS)}")
    _log_to_stderr(log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    app = _application(configuration)
    listen = configuration.listen
    address = listen.host if host is None else host
    _warn_if_open(address, configuration.admin.token)
    uvicorn.run(
        app,
        host=address,
        port=listen.port if port is None else port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=round(grace),
    )


def _configuration(config: Path) -> Configuration:
    import os

    from controller.configuration import load
    from controller.errors import ConfigurationError

    try:
        return load(config, os.environ)
    except ConfigurationError as error:
        raise fail(f"the configuration cannot be used\n{escape(str(error))}") from error


def _application(configuration: Configuration) -> GatewayApp:
    import prometheus_client

    from controller.errors import StageError
    from controller.store import ArtifactStore, shipped_models
    from gateway.application import create_app

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    store = ArtifactStore(shipped_models(), configuration.home)
    try:
        return create_app(configuration, store=store, actuator=_actuator(configuration))
    except StageError as error:
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


def _warn_if_open(address: str, token: str | None) -> None:
    import logging

    if token is None and address not in ("127.0.0.1", "::1", "localhost"):
        logging.getLogger("headway.gateway").warning(
            "/admin and the status page are open to everybody who reaches %s; set admin.token to close them", address
        )


def _log_to_stderr(level: str) -> None:
    import logging

    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
