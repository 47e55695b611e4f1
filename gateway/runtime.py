"""What runs behind the application: the parts, what they tell one another, and their life from start to end."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from controller.actuators import Actuator
from controller.actuators.reconciler import EventKind, Reconciler, ReplicaEvent
from controller.configuration import Configuration
from controller.errors import ConfigurationError, HeadwayError, Problem
from controller.store import RecordWriter
from controller.types import DecisionRecord, PoolName, Scale, TicketId, WorkerName, WorkerPhase, WorkerSpec
from gateway.admin import Operator
from gateway.assembly import Artifacts, control_plane, learned
from gateway.continuation import Continuations, Mode
from gateway.discovery import Finder, Resolver
from gateway.driver import Clock, Driver
from gateway.instruments import Level
from gateway.kv_caches import KvCaches
from gateway.leases.peers import Peers, Place, SharedWorkers, leases_of
from gateway.leases.wire import Tell
from gateway.metrics import Metrics, Status
from gateway.relay import Relay, RelaySettings
from gateway.reload import Load, WorkerChanges, changed_keys, searches, worker_changes
from gateway.remaining import RemainingDesk
from gateway.roster import Roster, Source
from gateway.scoring import Budget, Scorer
from gateway.telemetry import Telemetry
from gateway.tenants import Tenants
from gateway.upstreams import Upstreams
from gateway.watch import Intervals, Watch
from gateway.worker_cards import TIMEOUTS
from predictors.types import Prompt
from upstream.types import Timeouts
from upstream.vllm import VllmClient

__all__ = ["Runtime"]

_log = logging.getLogger("headway.gateway")
_WORRYING = (EventKind.CRASHED, EventKind.START_FAILED, EventKind.UNRESPONSIVE)
_SILENT = frozenset({"first_byte_timeout", "idle_timeout", "total_timeout"})
"""Codes of requests that a worker took and did not answer."""
_PRIORITIES_FROM = 1_767_225_600.0
"""Workers' priorities count from the beginning of 2026 (UTC), by every gateway in front of them alike."""
_LEAVING_S = 600.0
"""Requests on a worker that is not listed any more may take so long before it is shown no more."""


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
        resolver: Resolver,
        load: Load | None,
        place: Place | None = None,
    ) -> None:
        self.configuration = configuration
        self._now = clock
        known = learned(configuration, store)
        self.plane = control_plane(configuration, store)
        self.upstreams = Upstreams(configuration)
        self.draining = False
        """On its way out: requests are still answered, but ``/ready`` says no."""
        self._load = load
        self._reloading = asyncio.Lock()
        self._urls: dict[WorkerName, str] = {}
        self._epoch = time_of_day() - clock()
        self.plane.stages.order.count_from(_PRIORITIES_FROM - self._epoch)
        self._records: RecordWriter | None = None
        tenants = Tenants(configuration)
        self.telemetry = Telemetry(configuration, tenants, clock, self._epoch, version)
        self.clients = Level()
        """Connections of clients, counted by the server."""
        status = Status(
            view=lambda: self.plane.view(clock()),
            stages=self.plane.counters,
            fallbacks=self.plane.fallbacks,
            artifacts=known.standings,
            records_dropped=self._dropped,
            connections=lambda: self.upstreams.open_connections,
            clients=self.clients,
            retries_refused=lambda: self.plane.retries.refused,
            retry_balance=lambda: self.plane.retries.balance,
            continuation_bytes=lambda: self.relay.continuations.held,
            log_dropped=self.telemetry.log_dropped,
            spans=self.telemetry.spans,
            kv=lambda: self.caches.stats(),
            held_for_kv=self.plane.held_for_kv,
        )
        self.metrics = Metrics(status, tenants, version)
        self.driver = Driver(
            self.plane,
            self,
            clock=clock,
            scorer=scorer or known.scorer,
            budget=Budget(configuration.scoring.budget_ms / 1000),
            keep_prompts=configuration.records.dir is not None and configuration.records.prompt_text,
        )
        self.watch = Watch(self.driver, self.upstreams, _intervals(configuration), clock, self._hung)
        self.roster = Roster(self.driver, clock, self.watch.suspect)
        self._finder = Finder(self.roster, resolver)
        self.caches = KvCaches(configuration, self.plane.stages.place)
        self.workers = SharedWorkers(self.roster, [pool.name for pool in configuration.pools], clock)
        self.operator = Operator(
            self.plane,
            clock,
            version,
            known.standings,
            self._urls.get,
            self.roster,
            self._finder.errors,
            self.watch.errors,
            self._dropped,
            self.caches.errors,
        )
        self.relay = Relay(
            self.driver,
            self.upstreams,
            tenants,
            self.metrics,
            _settings(configuration),
            secrets.token_hex(4),
            _continuations(configuration),
        )
        if known.remaining is not None:
            self.relay.remaining = RemainingDesk(known.remaining, tell=self._remains, count=self.metrics.looks)
        self.peers = self._join(configuration, place)
        shared = self.driver if self.peers is None else self.peers.plane
        self._reconciler = None if actuator is None else Reconciler(shared, actuator, clock, self._replica)
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
        self.relay.trails = self.telemetry.start()
        for spec in self.configuration.worker_specs():
            self.roster.add(spec, Source.CONFIG)
        await self._finder.start(searches(self.configuration))
        await self.watch.start()
        if self.peers is None:
            self._reconcile(True)
        else:
            await self.peers.start()
        self.driver.start()

    async def close(self) -> None:
        """Give up what is under way, stop the workers that were started here, write the last records."""
        await self._finder.close()
        await self.roster.close()
        await self.watch.close()
        await self.caches.close()
        await self.driver.close()
        if self.relay.remaining is not None:
            self.relay.remaining.close()
        if self._reconciling is not None:
            self._reconciling.cancel()
            with suppress(asyncio.CancelledError):
                await self._reconciling
        if self._reconciler is not None:
            await self._reconciler.close()
        if self.peers is not None:
            await self.peers.close()
        await self.upstreams.close()
        await self.telemetry.close()
        if self._records is not None:
            await asyncio.to_thread(self._records.close)

    async def page(self) -> bytes:
        """The metrics, those of other processes of this machine added."""
        own = self.metrics.page()
        return own if self.peers is None else await self.peers.page(own)

    def drain(self) -> None:
        """The gateway will end soon; from now on it is not ready."""
        self.draining = self.operator.draining = True

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration again and go by it; the top-level keys that were different.

        Raises, with nothing changed, ConfigurationError for one that cannot be used, and RestartNeeded for one that
        cannot be applied while the gateway runs.
        """
        self.telemetry.reopen()
        if self._load is None:
            message = "this gateway was not started from a file, so there is nothing to read again"
            raise ConfigurationError([Problem("", "", message)])
        async with self._reloading:
            return await self.apply(await asyncio.to_thread(self._load))

    async def apply(self, new: Configuration) -> tuple[str, ...]:
        """Go by this configuration from now on. Requests under way keep what they came with. Raises as reload."""
        changed = changed_keys(self.configuration, new)
        ways = await asyncio.to_thread(self.upstreams.read, new)
        workers = worker_changes(new, self.roster)
        try:
            tenants = Tenants(new)
        except (OSError, HeadwayError) as error:
            raise ConfigurationError([Problem("", "tenants", str(error))]) from error
        rates = self.plane.settings.service_rates
        self.plane.reconfigure(replace(new.control_settings(), service_rates=rates), new.alias_pools(), self._now())
        # From here on nothing can be refused any more.
        self.configuration = new
        self.upstreams.replace(ways)
        self.relay.tenants, self.relay.settings = tenants, _settings(new)
        self.metrics.tenants = tenants
        self.telemetry.rename(tenants)
        self.watch.intervals = _intervals(new)
        if "log_level" in changed:
            logging.getLogger().setLevel(new.log_level.upper())
        self._change_workers(workers)
        self.caches.replace(new)
        self._attend()
        await self._finder.replace(searches(new))
        self.driver.pump_soon()
        _log.info("the configuration was read again; %s", f"new: {', '.join(changed)}" if changed else "nothing is new")
        return changed

    async def reload_all(self) -> tuple[str, ...]:
        """The same, in every process of this machine."""
        changed = await self.reload()
        if self.peers is not None:
            self.peers.tell(Tell("reload", ""))
        return changed

    def _join(self, configuration: Configuration, place: Place | None) -> Peers | None:
        """The other processes and gateways, if there are any."""
        leases = leases_of(configuration, place)
        if leases is None and place is None:
            return None
        peers = Peers(
            self.plane,
            self.driver,
            self.roster,
            self._now,
            place=place,
            leases=leases,
            scaling=self._reconcile,
            reload=self.reload,
            page=self.metrics.page,
            fleet=lambda: self.operator.fleet().model_dump(),
        )
        self.relay.room = peers.room
        self.workers.tell = peers.tell
        self.operator.others = peers.fleet
        return peers

    def _reconcile(self, scales: bool) -> None:
        """This process starts and stops workers from now on, or does so no more."""
        if self._reconciling is not None:
            self._reconciling.cancel()
            self._reconciling = None
        if scales and self._reconciler is not None:
            self._reconciler.want(self.configuration.initial_scale())
            self._reconciling = asyncio.get_running_loop().create_task(self._reconciler.run())

    def _change_workers(self, changes: WorkerChanges) -> None:
        for name in changes.removed:
            self.roster.remove(name)
        for name in changes.drained:
            self.roster.drain(name, _LEAVING_S)
        for spec in changes.added:
            self.roster.add(spec, Source.CONFIG)
        for spec in changes.resized:
            self.roster.resize(spec)
        for name in changes.kept:
            drain = self.roster.draining(name)
            if drain is not None and drain.removes:
                self.roster.undrain(name)

    def ready_workers(self) -> Mapping[PoolName, int]:
        """How many each pool has."""
        return {pool.name: pool.ready for pool in self.plane.view(self._now()).pools}

    def askers(self) -> Mapping[PoolName, VllmClient]:
        """One ready worker of each pool, to be asked for what it knows of itself."""
        ready = {
            worker.name: worker.pool
            for pool in self.plane.view(self._now()).pools
            for worker in pool.workers
            if worker.phase is WorkerPhase.READY
        }
        found: dict[PoolName, VllmClient] = {}
        for name, pool in ready.items():
            access = self.upstreams.of(name, pool)
            client = VllmClient(access.client, self._urls[name], timeouts=TIMEOUTS, headers=access.headers)
            found.setdefault(pool, client)
        return found

    # What the driver tells

    def decided(self, step: str, seconds: float) -> None:
        """See :class:`gateway.driver.Observer`, also for what follows."""
        self.metrics.steps[step](seconds)

    def recorded(self, record: DecisionRecord, prompt: Prompt | None) -> None:
        self.metrics.recorded(record)
        if self.relay.trails is not None:
            self.relay.trails.recorded(record)
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
        self.watch.suspect(worker, silent=code in _SILENT)

    def joined(self, spec: WorkerSpec) -> None:
        self._urls[spec.name] = spec.url
        self.upstreams.joined(spec)
        self.roster.joined(spec)
        self.caches.joined(spec)
        self._attend()
        self.watch.add(spec, listed=self.roster.source(spec.name) is not Source.ACTUATOR)

    def left(self, worker: WorkerName) -> None:
        self._urls.pop(worker, None)
        self.watch.remove(worker)
        self.roster.left(worker)
        self.caches.left(worker)
        self._attend()
        self.upstreams.left(worker)

    def _attend(self) -> None:
        """The relay has to do with caches only while a worker says what is in its own."""
        self.relay.caches = self.caches or None

    def _hung(self, worker: WorkerName, why: str) -> None:
        if self._reconciler is not None:
            self._reconciler.unresponsive(worker, why)

    def _remains(self, ticket: TicketId, tokens: int, left: float) -> None:
        self.plane.on_remaining(ticket, tokens, left, self._now())

    def _replica(self, event: ReplicaEvent) -> None:
        level = logging.WARNING if event.kind in _WORRYING else logging.INFO
        _log.log(level, "pool %s, worker %s: %s %s", event.pool, event.worker, event.kind, event.detail)
        self.operator.replica(event)

    def _dropped(self) -> int:
        return self.plane.records.dropped + (0 if self._records is None else self._records.dropped)


def _intervals(configuration: Configuration) -> Intervals:
    health = configuration.health
    probe = health.probe
    return Intervals(
        health.interval_s,
        health.report_interval_s,
        health.timeout_s,
        health.failures,
        health.restart_after,
        None if probe is None else probe.every_s,
        30.0 if probe is None else probe.timeout_s,
    )


def _continuations(configuration: Configuration) -> Continuations:
    section = configuration.continuation
    return Continuations(Mode(section.mode), section.stream_bytes, section.total_bytes)


def _settings(configuration: Configuration) -> RelaySettings:
    limits, timeouts = configuration.limits, configuration.timeouts
    return RelaySettings(
        max_body_bytes=limits.max_body_bytes,
        max_json_depth=limits.max_json_depth,
        timeouts=Timeouts(timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s, timeouts.total_s or math.inf),
        deadline_s=limits.deadline_seconds,
        pass_key_on=not (configuration.tenants or configuration.auth.operator_keys),
    )
