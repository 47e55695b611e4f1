"""What Prometheus reads: counters and histograms of requests, and the fleet as it stands when it is asked.

Labels are bounded: pools, workers, stages and outcomes come from the configuration and the code, and a tenant that the
configuration does not list counts as ``other``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.types import DecisionRecord, Result, WorkerPhase
from controller.view import FleetView

__all__ = ["ArtifactState", "Metrics", "Standing", "Status"]

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
_FINE = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
DEFAULT_TENANT = "default"


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


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self, status: Status, tenants: Collection[str], version: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._tenants = frozenset(tenants) | {DEFAULT_TENANT}
        self._requests = Counter(
            "headway_requests",
            "Requests that ended, by the pool that served or would have served them.",
            ["pool", "outcome", "tenant"],
            registry=registry,
        )
        self._refused = Counter(
            "headway_not_served", "Requests that were not served to their end, by reason.", ["code"], registry=registry
        )
        self._retries = Counter(
            "headway_retries", "Further attempts after a worker's failure.", ["pool"], registry=registry
        )
        self._tokens = Counter("headway_tokens", "Tokens, as workers report them.", ["pool", "kind"], registry=registry)
        self._worker_errors = Counter(
            "headway_worker_errors",
            "Requests that failed on a worker, by what went wrong.",
            ["worker", "code"],
            registry=registry,
        )
        self._queue = self._histogram("headway_queue_seconds", "From arrival to dispatch.", ["pool"], _LATENCY)
        self._ttft = self._histogram(
            "headway_time_to_first_token_seconds",
            "From arrival to the first bytes of a stream.",
            ["pool", "tenant"],
            _LATENCY,
        )
        self._e2e = self._histogram(
            "headway_request_seconds", "From arrival to the end of the answer.", ["pool", "tenant"], _LATENCY
        )
        self._decision = self._histogram(
            "headway_decision_seconds",
            "Calls into the control plane (submit, dispatch), and batches of scores (score).",
            ["step"],
            _FINE,
        )
        overhead = self._histogram(
            "headway_overhead_seconds",
            "What the gateway adds before a request is on its way, waiting left out.",
            [],
            _FINE,
        )
        self.overhead = overhead.observe
        self._steps = {step: self._decision.labels(step).observe for step in ("submit", "dispatch", "score")}
        registry.register(_Fleet(status, version))

    def page(self) -> bytes:
        """The metrics page, in Prometheus' text format."""
        return generate_latest(self._registry)

    def decided(self, step: str, seconds: float) -> None:
        """See :meth:`gateway.driver.Observer.decided`."""
        self._steps[step](seconds)

    def worker_error(self, worker: str, code: str) -> None:
        """A request failed on this worker."""
        self._worker_errors.labels(worker, code).inc()

    def refused(self, code: str) -> None:
        """A request was turned away before the controller knew of it."""
        self._refused.labels(code).inc()

    def recorded(self, record: DecisionRecord) -> None:
        """A request ended."""
        pool, tenant = record.pool or "", self._tenant(record.tenant)
        self._requests.labels(pool, record.result.value, tenant).inc()
        if record.result is not Result.COMPLETED:
            self._refused.labels(record.code or "").inc()
        if record.attempts > 1:
            self._retries.labels(pool).inc(record.attempts - 1)
        if record.dispatched_at is not None:
            self._queue.labels(pool).observe(record.dispatched_at - record.submitted_at)
        if record.first_token_at is not None and record.first_token_at < record.finished_at:  # a stream
            self._ttft.labels(pool, tenant).observe(record.first_token_at - record.submitted_at)
        if record.result is Result.COMPLETED:
            self._e2e.labels(pool, tenant).observe(record.finished_at - record.submitted_at)
        if record.usage is not None:
            self._tokens.labels(pool, "prompt").inc(record.usage.prompt_tokens)
            self._tokens.labels(pool, "output").inc(record.usage.output_tokens)
            self._tokens.labels(pool, "cached").inc(record.usage.cached_tokens)

    def _tenant(self, tenant: str) -> str:
        return tenant if tenant in self._tenants else "other"

    def _histogram(self, name: str, help_: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, labels, buckets=buckets, registry=self._registry)


class _Fleet(Collector):
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
        yield _stages(self._status.stages())
        yield _fallbacks(self._status.fallbacks())
        yield _artifacts(self._status.artifacts)
        dropped = CounterMetricFamily("headway_records_dropped", "Decision records that were lost.")
        dropped.add_metric([], self._status.records_dropped())
        yield dropped
        connections = GaugeMetricFamily("headway_upstream_connections", "Open connections to workers.")
        connections.add_metric([], self._status.connections())
        yield connections
        build = GaugeMetricFamily("headway_build_info", "The gateway's version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build


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
    for pool in view.pools:
        for worker in pool.workers:
            for one in WorkerPhase:
                phase.add_metric([worker.name, pool.name, one.value], float(worker.phase is one))
            inflight.add_metric([worker.name, pool.name], worker.inflight)
            if worker.report is not None:
                kv.add_metric([worker.name, pool.name], worker.report.kv_usage)
    yield from (phase, inflight, kv)


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
