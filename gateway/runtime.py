"""What runs behind the application: the parts, what they tell one another, and their life from start to end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from controller.actuators import Actuator
from controller.actuators.reconciler import EventKind, Reconciler, ReplicaEvent
from controller.configuration import Configuration
from controller.store import RecordWriter
from controller.types import DecisionRecord, PoolName, Scale, WorkerName, WorkerPhase, WorkerSpec
from gateway.admin import Operator
from gateway.assembly import Artifacts, control_plane, learned
from gateway.driver import Clock, Driver
from gateway.metrics import Metrics, Status
from gateway.relay import Relay, RelaySettings
from gateway.scoring import Budget, Scorer
from gateway.tenants import Tenants
from gateway.watch import Intervals, Watch
from predictors.types import Prompt
from upstream.client import Client
from upstream.types import Timeouts

__all__ = ["Runtime"]

_log = logging.getLogger("headway.gateway")
_WORRYING = (EventKind.CRASHED, EventKind.START_FAILED)


class Runtime:
    """One gateway's parts. It is the driver's observer: it passes on what the driver says to whom it concerns."""

    def __init__(
        self,
        configuration: Configuration,
        store: Artifacts,
        scorer: Scorer | None,
        actuator: Actuator | None,
        clock: Clock,
        time_of_day: Callable[[], float],
        version: str,
    ) -> None:
        self.configuration = configuration
        self._now = clock
        known = learned(configuration, store)
        self.plane = control_plane(configuration, store)
        self.client = Client()
        self._urls: dict[WorkerName, str] = {}
        self._epoch = time_of_day() - clock()
        self._records: RecordWriter | None = None
        tenants = Tenants(configuration)
        status = Status(
            view=lambda: self.plane.view(clock()),
            stages=self.plane.counters,
            fallbacks=self.plane.fallbacks,
            artifacts=known.standings,
            records_dropped=self._dropped,
            connections=lambda: self.client.open_connections,
        )
        self.metrics = Metrics(status, tenants.names, version)
        self.driver = Driver(
            self.plane,
            self,
            clock=clock,
            scorer=scorer or known.scorer,
            budget=Budget(configuration.scoring.budget_ms / 1000),
            keep_prompts=configuration.records.dir is not None and configuration.records.prompt_text,
        )
        self.watch = Watch(self.driver, self.client, _intervals(configuration), clock)
        self.operator = Operator(
            self.plane, clock, version, known.standings, self._urls.get, self.watch.errors, self._dropped
        )
        self.relay = Relay(
            self.driver, self.client, tenants, self.metrics, _settings(configuration), secrets.token_hex(4)
        )
        self._listed = frozenset(spec.name for spec in configuration.worker_specs())
        self._reconciler = None if actuator is None else Reconciler(self.driver, actuator, clock, self._replica)
        self._reconciling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the listed workers once they were looked at, begin to start others, open the decision log."""
        records = self.configuration.records
        if records.dir is not None:
            self._records = RecordWriter(
                records.dir,
                max_bytes=records.max_bytes,
                file_bytes=records.file_bytes,
                file_seconds=records.file_seconds,
                prompt_text=records.prompt_text,
                epoch=self._epoch,
            )
        for spec in self.configuration.worker_specs():
            self.driver.add_worker(spec, self._now(), WorkerPhase.STARTING)
        await self.watch.start()
        if self._reconciler is not None:
            self._reconciler.want(self.configuration.initial_scale())
            self._reconciling = asyncio.get_running_loop().create_task(self._reconciler.run())
        self.driver.start()

    async def close(self) -> None:
        """Give up what is under way, stop the workers that were started here, write the last records."""
        await self.watch.close()
        await self.driver.close()
        if self._reconciling is not None and self._reconciler is not None:
            self._reconciling.cancel()
            with suppress(asyncio.CancelledError):
                await self._reconciling
            await self._reconciler.close()
        await self.client.close()
        if self._records is not None:
            await asyncio.to_thread(self._records.close)

    def ready_workers(self) -> Mapping[PoolName, int]:
        """How many each pool has."""
        return {pool.name: pool.ready for pool in self.plane.view(self._now()).pools}

    # What the driver tells

    def decided(self, step: str, seconds: float) -> None:
        """See :class:`gateway.driver.Observer`, also for what follows."""
        self.metrics.decided(step, seconds)

    def recorded(self, record: DecisionRecord, prompt: Prompt | None) -> None:
        self.metrics.recorded(record)
        self.operator.recorded(record)
        if self._records is not None:
            self._records.write(record, None if prompt is None else prompt.text)

    def scale(self, decisions: Iterable[Scale]) -> None:
        decisions = tuple(decisions)
        for decision in decisions:
            _log.info("pool %s to %d replicas: %s", decision.pool, decision.replicas, decision.reason)
        if self._reconciler is not None:
            self._reconciler.want(decisions)

    def suspect(self, worker: WorkerName, code: str) -> None:
        self.metrics.worker_error(worker, code)
        self.watch.suspect(worker)

    def joined(self, spec: WorkerSpec) -> None:
        self._urls[spec.name] = spec.url
        self.watch.add(spec, listed=spec.name in self._listed)

    def left(self, worker: WorkerName) -> None:
        self._urls.pop(worker, None)
        self.watch.remove(worker)

    def _replica(self, event: ReplicaEvent) -> None:
        level = logging.WARNING if event.kind in _WORRYING else logging.INFO
        _log.log(level, "pool %s, worker %s: %s %s", event.pool, event.worker, event.kind, event.detail)
        self.operator.replica(event)

    def _dropped(self) -> int:
        return self.plane.records.dropped + (0 if self._records is None else self._records.dropped)


def _intervals(configuration: Configuration) -> Intervals:
    health = configuration.health
    return Intervals(health.interval_s, health.report_interval_s, health.timeout_s, health.failures)


def _settings(configuration: Configuration) -> RelaySettings:
    limits, timeouts = configuration.limits, configuration.timeouts
    return RelaySettings(
        max_body_bytes=limits.max_body_bytes,
        timeouts=Timeouts(timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s),
        deadline_s=limits.deadline_seconds,
        pass_key_on=not configuration.tenants,
    )
