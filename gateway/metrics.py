"""What Prometheus reads: counters and histograms of requests here, what stands at the moment in
:mod:`gateway.metrics_fleet`.

Labels are bounded: pools, workers, stages and outcomes come from the configuration and the code; a tenant that the
configuration does not list counts as ``other``; classes are at most 16; and :mod:`gateway.instruments` bounds the rest.
Nearly all of it is done when the driver hands on its records, ten times a second, and not while a request is served.
"""

from __future__ import annotations

import re
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest

from controller.objectives import seconds_per_token
from controller.types import DecisionRecord, Result
from gateway.continuation_rules import UNKNOWN_FIELD
from gateway.instruments import Count, Counter, Histogram
from gateway.metrics_fleet import ArtifactState, Reading, Standing, Status
from gateway.remaining import OUTCOMES

__all__ = ["ArtifactState", "Metrics", "Naming", "Series", "Standing", "Status"]

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FINE = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_LIMITS = frozenset({"concurrency_limit_exceeded", "queue_full", "rate_limit_exceeded"})
_STATUS = re.compile(r"status_[45]\d\d")


class Naming(Protocol):
    """What tenants are called in labels; :class:`gateway.tenants.Tenants` knows."""

    def label_of(self, name: str) -> str:
        """The tenant itself, where it is listed."""

    def class_of(self, name: str) -> str:
        """One of at most 16."""


class Series:
    """The histograms and counters of one pool and one class of tenants, found once. All times in seconds."""

    __slots__ = (
        "answer_overhead",
        "cached",
        "longest_gap",
        "mean_gap",
        "output",
        "overhead",
        "prompt",
        "queue",
        "request",
        "ttft",
    )

    def __init__(self, of: Metrics, pool: str, class_: str) -> None:
        self.overhead = of.overhead.labels(pool, class_).observe
        self.answer_overhead = of.answer_overhead.labels(pool, class_).observe
        self.queue = of.queue.labels(pool, class_).observe
        self.ttft = of.ttft.labels(pool, class_).observe
        self.mean_gap = of.mean_gap.labels(pool, class_).observe
        self.longest_gap = of.longest_gap.labels(pool, class_).observe
        self.request = of.request.labels(pool, class_).observe
        self.prompt: Count = of.tokens.labels(pool, "prompt")
        self.output: Count = of.tokens.labels(pool, "output")
        self.cached: Count = of.tokens.labels(pool, "cached")


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self, status: Status, tenants: Naming, version: str) -> None:
        self._registry = CollectorRegistry()
        self.tenants = tenants
        """May be replaced."""
        self._requests = self._counter(
            "headway_requests",
            "Requests that ended, by the pool that served or would have served them.",
            ["pool", "outcome", "tenant"],
        )
        self._refused = self._counter(
            "headway_not_served", "Requests that were not served to their end, by reason.", ["code"]
        )
        self._limited = self._counter(
            "headway_limited", "Requests that a limit turned away, by which one.", ["code", "class"]
        )
        self._retries = self._counter("headway_retries", "Further attempts after a worker's failure.", ["pool"])
        self._continuations = self._counter(
            "headway_continuations", "Of those, the ones with which a stream that had begun went on.", ["pool"]
        )
        self._not_continued = self._counter(
            "headway_not_continued", "Streams that broke off because they could not go on, by why.", ["reason"]
        )
        self._broken = self._counter("headway_broken_streams", "Answers that broke off after they had begun.", ["pool"])
        self.tokens = self._counter("headway_tokens", "Tokens, as workers report them.", ["pool", "kind"])
        self._worker_errors = self._counter(
            "headway_worker_errors", "Requests that failed on a worker, by what went wrong.", ["worker", "code"]
        )
        self.queue = self._histogram("headway_queue_seconds", "From arrival to dispatch.", _LATENCY)
        self.ttft = self._histogram(
            "headway_time_to_first_token_seconds", "From arrival to the first bytes of a stream.", _LATENCY
        )
        self.mean_gap = self._histogram(
            "headway_inter_token_seconds", "Mean time between two tokens of a stream.", _GAPS
        )
        self.longest_gap = self._histogram(
            "headway_longest_gap_seconds", "Longest time in which a stream that had begun brought nothing.", _GAPS
        )
        self.request = self._histogram("headway_request_seconds", "From arrival to the end of the answer.", _LATENCY)
        self.overhead = self._histogram(
            "headway_overhead_seconds",
            "What the gateway adds before a request is on its way, waiting left out.",
            _FINE,
        )
        self.answer_overhead = self._histogram(
            "headway_answer_overhead_seconds",
            "What the gateway adds to an answer: to the whole of one, or to the first events of a stream.",
            _FINE,
        )
        decision = Histogram(
            "headway_decision_seconds",
            "Calls into the control plane (submit, dispatch), and batches of scores (score).",
            ["step"],
            buckets=_FINE,
            registry=self._registry,
        )
        self.steps = {step: decision.labels(step).observe for step in ("submit", "dispatch", "score")}
        """What is told by :meth:`gateway.driver.Observer.decided`, by step, in seconds."""
        looks = self._counter("headway_remaining_looks", "Looks at running streams for what is left.", ["outcome"])
        self.looks = {outcome: looks.labels(outcome).inc for outcome in OUTCOMES}
        """What is told by :class:`gateway.remaining.RemainingDesk`."""
        self._series: dict[tuple[str, str], Series] = {}
        self._registry.register(Reading(status, version))

    def page(self) -> bytes:
        """The metrics page, in Prometheus' text format."""
        return generate_latest(self._registry)

    def series(self, pool: str, class_: str) -> Series:
        """What is observed of one pool's requests of one class."""
        found = self._series.get((pool, class_))
        if found is None:
            found = self._series[pool, class_] = Series(self, pool, class_)
        return found

    def worker_error(self, worker: str, code: str) -> None:
        """A request failed on this worker."""
        self._worker_errors.labels(worker, _bounded(code)).inc()

    def refused(self, code: str) -> None:
        """A request was turned away before the controller knew of it."""
        self._refused.labels(_bounded(code)).inc()

    def not_continued(self, why: str) -> None:
        """A stream could not go on."""
        if why.startswith(UNKNOWN_FIELD):
            why = UNKNOWN_FIELD  # a client's own words are no label
        self._not_continued.labels(why).inc()

    def recorded(self, record: DecisionRecord) -> None:
        """A request ended."""
        pool, tenants = record.pool or "", self.tenants
        class_ = tenants.class_of(record.tenant)
        self._requests.labels(pool, record.result.value, tenants.label_of(record.tenant)).inc()
        if record.result is not Result.COMPLETED:
            self._failed(record, pool, class_)
        if record.attempts > 1:
            self._retries.labels(pool).inc(record.attempts - 1)
        if record.continued:
            self._continuations.labels(pool).inc(record.continued)
        if record.dispatched_at is not None:
            self._timed(record, self.series(pool, class_), record.dispatched_at)

    def _timed(self, record: DecisionRecord, series: Series, dispatched_at: float) -> None:
        began, first, ended, usage = record.submitted_at, record.first_token_at, record.finished_at, record.usage
        if not record.continued:  # else it was dispatched again after its first token
            series.queue(dispatched_at - began)
        if first is not None and first < ended:  # a stream
            series.ttft(first - began)
            if usage is not None and usage.output_tokens > 1:
                series.mean_gap(seconds_per_token(ended - first, usage.output_tokens))
        if record.result is Result.COMPLETED:
            series.request(ended - began)
        if usage is not None:
            series.prompt.value += usage.prompt_tokens
            series.output.value += usage.output_tokens
            series.cached.value += usage.cached_tokens or 0

    def _failed(self, record: DecisionRecord, pool: str, class_: str) -> None:
        code = _bounded(record.code or "")
        self._refused.labels(code).inc()
        if code in _LIMITS:
            self._limited.labels(code, class_).inc()
        if record.result is Result.FAILED and record.first_token_at is not None:
            self._broken.labels(pool).inc()

    def _counter(self, name: str, help_: str, labels: list[str]) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, ["pool", "class"], buckets=buckets, registry=self._registry)


def _bounded(code: str) -> str:
    """A worker may answer with any number as its status."""
    return code if not code.startswith("status_") or _STATUS.fullmatch(code) else "status_other"
