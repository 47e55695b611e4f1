"""The access log and the traces of one gateway: made as the configuration says, and nothing of them where it says
nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from controller.configuration import Configuration
from controller.errors import ConfigurationError, Problem
from gateway.access_log import AccessLog
from gateway.driver import Clock
from gateway.metrics import Naming
from gateway.trail import Sink, Trails

if TYPE_CHECKING:
    from gateway.tracing import Tracer

__all__ = ["Telemetry"]

_NO_SPANS: Mapping[str, int] = {}


class Telemetry:
    """Raises ConfigurationError if the log cannot be opened, or OpenTelemetry is not installed."""

    def __init__(self, configuration: Configuration, tenants: Naming, clock: Clock, epoch: float, version: str) -> None:
        self._configuration = configuration
        self._tenants = tenants
        self._clock = clock
        self._epoch = epoch
        self._version = version
        self._trails: Trails | None = None
        self._tracer: Tracer | None = None
        self._log = _log(configuration, tenants, epoch)
        if configuration.tracing is not None and not _has_opentelemetry():
            message = "tracing needs OpenTelemetry: pip install 'headway[otel]'"
            raise ConfigurationError([Problem("", "tracing", message)])

    def start(self) -> Trails | None:
        """Begin to write; ``None`` if nothing is to be noted of requests."""
        sinks: list[Sink] = []
        settings = self._configuration.tracing
        if self._log is not None:
            self._log.start()
            sinks.append(self._log)
        if settings is not None:
            from gateway.tracing import Tracer

            self._tracer = Tracer(settings, self._version, self._epoch, self._tenants, secrets.randbits(128))
            sinks.append(self._tracer)
        if sinks:
            self._trails = Trails(sinks, self._clock, self._tracer)
        return self._trails

    def rename(self, tenants: Naming) -> None:
        """The tenants are these from now on."""
        self._tenants = tenants
        for sink in (self._log, self._tracer):
            if sink is not None:
                sink.tenants = tenants

    def reopen(self) -> None:
        """The log's file may have been moved away."""
        if self._log is not None:
            self._log.reopen()

    def log_dropped(self) -> int:
        """Lines that were lost."""
        return 0 if self._log is None else self._log.dropped

    def spans(self) -> Mapping[str, int]:
        """Spans by what became of them."""
        return _NO_SPANS if self._tracer is None else self._tracer.counts()

    async def close(self) -> None:
        """Write and send what waits, for some seconds at most."""
        if self._trails is not None:
            self._trails.close()
        closing = [sink.close for sink in (self._log, self._tracer) if sink is not None]
        await asyncio.gather(*(asyncio.to_thread(close) for close in closing))


def _log(configuration: Configuration, tenants: Naming, epoch: float) -> AccessLog | None:
    section = configuration.access_log
    if not section.enabled:
        return None
    try:
        return AccessLog(section.path, section.sample, epoch, tenants)
    except OSError as error:
        message = f"{section.path} cannot be written: {error.strerror}"
        raise ConfigurationError([Problem("", "access_log.path", message)]) from error


def _has_opentelemetry() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
