"""What Prometheus reads as it stands when it asks: the fleet, the stages and the gateway's own state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.types import WorkerName, WorkerPhase
from controller.view import Breaker, FleetView
from gateway.instruments import Level
from gateway.kv_watch import KvStats

__all__ = ["ArtifactState", "Reading", "Standing", "Status"]


class ArtifactState(StrEnum):
    """What became of an artifact that the configuration names."""

    ACTIVE = "active"
    ABSENT = "absent"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Standing:
    """One artifact that a stage or a predictor wants. ``why`` says what is wrong where it is not active."""

    kind: str
    name: str
    state: ArtifactState
    version: str = ""
    sha256: str = ""
    why: str = ""


def _none() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Status:
    """What a scrape asks for; called in the event loop."""

    view: Callable[[], FleetView]
    stages: Callable[[], Mapping[tuple[str, str, str], int]]
    """(stage, implementation, outcome) → times."""
    fallbacks: Callable[[], Mapping[tuple[str, str, str], int]]
    """(stage, implementation, reason) → times."""
    artifacts: Collection[Standing]
    records_dropped: Callable[[], int]
    connections: Callable[[], int]
    """To workers."""
    clients: Level = field(default_factory=Level)
    """Connections of clients."""
    retries_refused: Callable[[], int] = _none
    retry_balance: Callable[[], float] = _none
    """Further attempts that would be granted now."""
    continuation_bytes: Callable[[], int] = _none
    log_dropped: Callable[[], int] = _none
    """Lines of the access log."""
    spans: Callable[[], Mapping[str, int]] = dict
    """``exported``, ``failed`` and ``dropped`` → how many."""
    kv: Callable[[], Mapping[WorkerName, KvStats]] = dict
    """Of workers that are listened to."""
    held_for_kv: Callable[[], int] = _none


class Reading(Collector):
    """Reads the fleet when it is scraped."""

    def __init__(self, status: Status, version: str) -> None:
        self._status = status
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the fleet need not be there yet when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        view = self._status.view()
        yield from _pools(view)
        yield from _workers(view)
        yield _breakers(view)
        yield _stages(self._status.stages())
        yield _fallbacks(self._status.fallbacks())
        yield _artifacts(self._status.artifacts)
        yield from _kv_events(self._status.kv())
        yield from _own(self._status)
        build = GaugeMetricFamily("headway_build_info", "The gateway's version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build


def _own(status: Status) -> Iterator[Metric]:
    """The gateway's own state, without labels but for the spans'."""
    counters = {
        "headway_records_dropped": ("Decision records that were lost.", status.records_dropped()),
        "headway_access_log_dropped": ("Lines of the access log that were lost.", status.log_dropped()),
        "headway_retry_budget_refused": (
            "Further attempts that the retry budget did not grant.",
            status.retries_refused(),
        ),
        "headway_held_for_kv": (
            "Requests kept waiting though a worker had a seat free, because its KV budget had no room.",
            status.held_for_kv(),
        ),
        "headway_client_connections_accepted": ("Connections that clients have opened.", status.clients.total),
    }
    gauges = {
        "headway_upstream_connections": ("Open connections to workers.", status.connections()),
        "headway_client_connections": ("Open connections of clients.", status.clients.now),
        "headway_retry_budget": ("Further attempts that would be granted now.", status.retry_balance()),
        "headway_continuation_bytes": (
            "Held so that running streams can go on elsewhere.",
            status.continuation_bytes(),
        ),
    }
    for name, (help_, value) in counters.items():
        counter = CounterMetricFamily(name, help_)
        counter.add_metric([], value)
        yield counter
    for name, (help_, level) in gauges.items():
        gauge = GaugeMetricFamily(name, help_)
        gauge.add_metric([], level)
        yield gauge
    spans = CounterMetricFamily("headway_spans", "Spans of traces, by what became of them.", labels=["outcome"])
    for outcome, count in status.spans().items():
        spans.add_metric([outcome], count)
    yield spans


def _pools(view: FleetView) -> Iterator[Metric]:
    depth = GaugeMetricFamily("headway_queue_depth", 'Requests waiting; pool="" where it is open.', labels=["pool"])
    inflight = GaugeMetricFamily("headway_inflight", "Requests running on workers.", labels=["pool"])
    limit = GaugeMetricFamily("headway_inflight_limit", "Requests that may run on the ready workers.", labels=["pool"])
    wait = GaugeMetricFamily("headway_expected_wait_seconds", "Work in front of the ready workers.", labels=["pool"])
    depth.add_metric([""], view.open)
    for pool in view.pools:
        depth.add_metric([pool.name], pool.queued)
        inflight.add_metric([pool.name], pool.inflight)
        limit.add_metric([pool.name], pool.limit)
        wait.add_metric([pool.name], pool.expected_wait_s)
    yield from (depth, inflight, limit, wait)


def _workers(view: FleetView) -> Iterator[Metric]:
    phase = GaugeMetricFamily("headway_worker_phase", "1 for the phase it is in.", labels=["worker", "pool", "phase"])
    inflight = GaugeMetricFamily("headway_worker_inflight", "Requests running there.", labels=["worker", "pool"])
    kv = GaugeMetricFamily("headway_worker_kv_usage", "As the worker reports it, 0 to 1.", labels=["worker", "pool"])
    outgrown = CounterMetricFamily(
        "headway_worker_outgrown",
        "Times an answer there outgrew the KV cache reserved for it.",
        labels=["worker", "pool"],
    )
    for pool in view.pools:
        for worker in pool.workers:
            for one in WorkerPhase:
                phase.add_metric([worker.name, pool.name, one.value], float(worker.phase is one))
            inflight.add_metric([worker.name, pool.name], worker.inflight)
            outgrown.add_metric([worker.name, pool.name], worker.outgrown)
            if worker.report is not None:
                kv.add_metric([worker.name, pool.name], worker.report.kv_usage)
    yield from (phase, inflight, kv, outgrown)


def _breakers(view: FleetView) -> Metric:
    family = GaugeMetricFamily(
        "headway_worker_breaker",
        "1 for the state that errors have brought its circuit breaker to.",
        labels=["worker", "pool", "state"],
    )
    for pool in view.pools:
        for worker in pool.workers:
            for one in Breaker:
                family.add_metric([worker.name, pool.name, one.value], float(worker.breaker is one))
    return family


_KV_EVENTS = {
    "messages": "Messages about its KV cache that a worker has sent and that were applied, one an engine step.",
    "events": "KV-cache events in them.",
    "unknown": "KV-cache events of kinds that are not known, passed over.",
    "malformed": "Messages about KV caches that could not be read.",
    "gaps": "Times that such messages were missing.",
    "replays": "Times that missed ones were sent again.",
    "resets": "Times that what was known of a cache was lost, by a restart of the worker or a gap.",
    "failures": "Times that listening ended with an error, and began anew.",
}


def _kv_events(stats: Mapping[WorkerName, KvStats]) -> Iterator[Metric]:
    """Nothing where no worker is listened to."""
    if not stats:
        return
    for name, help_ in _KV_EVENTS.items():
        family = CounterMetricFamily(f"headway_kv_{name}", help_, labels=["worker"])
        for worker, counts in stats.items():
            family.add_metric([worker], getattr(counts, name))
        yield family


def _stages(counters: Mapping[tuple[str, str, str], int]) -> Metric:
    family = CounterMetricFamily(
        "headway_stage",
        "What became of each chance to decide: scored, skipped (nothing to decide), or fallback.",
        labels=["stage", "implementation", "outcome"],
    )
    for labels, count in sorted(counters.items()):
        family.add_metric(list(labels), count)
    return family


def _fallbacks(counters: Mapping[tuple[str, str, str], int]) -> Metric:
    family = CounterMetricFamily(
        "headway_fallbacks", "Why implementations fell back.", labels=["stage", "implementation", "reason"]
    )
    for labels, count in sorted(counters.items()):
        family.add_metric(list(labels), count)
    return family


def _artifacts(standings: Collection[Standing]) -> Metric:
    family = GaugeMetricFamily(
        "headway_artifact_info",
        "1 for each artifact that the configuration names, with what became of it.",
        labels=["kind", "name", "version", "sha256", "state"],
    )
    for one in standings:
        family.add_metric([one.kind, one.name, one.version, one.sha256, one.state.value], 1)
    return family
