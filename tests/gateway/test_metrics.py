from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.configuration import parse
from controller.store import ArtifactStore
from controller.types import DecisionRecord, PoolSpec, Result, Ticket, Usage, WorkerSpec
from controller.view import FleetView, PoolView
from gateway.assembly import control_plane
from gateway.instruments import MOST
from gateway.kv_watch import KvStats
from gateway.metrics import ArtifactState, Metrics, Standing, Status
from gateway.tenants import Tenants

RECORD = DecisionRecord(
    ticket="t",
    tenant="gold",
    model="auto",
    submitted_at=10.0,
    prompt_tokens=5,
    max_tokens=None,
    scores=None,
    choices=(),
    pool="p",
    worker="w",
    attempts=1,
    dispatched_at=10.5,
    first_token_at=11.0,
    finished_at=14.0,
    result=Result.COMPLETED,
    code=None,
    usage=Usage(5, 7, 2),
)


POOL = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
GOLD = parse({"pools": [POOL], "tenants": [{"name": "gold", "class": "paying"}]})


def metrics(**status: Any) -> Metrics:
    pool = PoolView(PoolSpec("p", "m", 0), (), 0, 0, 3, 8, 2, 0, 0, 0.0, 256.0, 0.0)
    given: dict[str, Any] = {
        "view": lambda: FleetView(0.0, (pool,), {"p": 0}, 4, 0.0, 0.0),
        "stages": lambda: {("tier", "threshold", "scored"): 2, ("tier", "threshold", "fallback"): 0},
        "fallbacks": lambda: {("tier", "best_effort", "no_artifact"): 1},
        "artifacts": (),
        "records_dropped": lambda: 0,
        "connections": lambda: 9,
    }
    return Metrics(Status(**{**given, **status}), Tenants(GOLD), "1.2.3")


def read(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page: name and labels to value."""
    families = text_string_to_metric_families(page.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(of: Metrics, metric: str, /, **labels: str) -> float | None:
    return read(of.page()).get((metric, tuple(sorted(labels.items()))))


def test_every_name_has_the_prefix() -> None:
    one = metrics()
    one.recorded(RECORD)
    assert {name.split("_")[0] for name, _ in read(one.page())} == {"headway"}


def test_a_completed_request_is_counted_and_timed() -> None:
    one = metrics()
    one.recorded(RECORD)
    assert value(one, "headway_requests_total", pool="p", outcome="completed", tenant="gold") == 1
    labels = {"pool": "p", "class": "paying"}
    assert value(one, "headway_queue_seconds_sum", **labels) == 0.5
    assert value(one, "headway_time_to_first_token_seconds_sum", **labels) == 1.0
    assert value(one, "headway_inter_token_seconds_sum", **labels) == 0.5
    assert value(one, "headway_request_seconds_sum", **labels) == 4.0
    assert value(one, "headway_tokens_total", pool="p", kind="output") == 7
    assert value(one, "headway_tokens_total", pool="p", kind="cached") == 2


def test_an_answer_that_came_at_once_has_no_first_token() -> None:
    one = metrics()
    one.recorded(replace(RECORD, first_token_at=14.0))
    assert value(one, "headway_time_to_first_token_seconds_count", pool="p", **{"class": "paying"}) == 0
    assert value(one, "headway_inter_token_seconds_count", pool="p", **{"class": "paying"}) == 0


def test_a_failure_has_its_reason_and_counts_its_attempts() -> None:
    one = metrics()
    one.recorded(replace(RECORD, result=Result.FAILED, code="connect_error", usage=None, attempts=3))
    assert value(one, "headway_not_served_total", code="connect_error") == 1
    assert value(one, "headway_retries_total", pool="p") == 2
    assert value(one, "headway_request_seconds_count", pool="p", **{"class": "paying"}) == 0
    assert value(one, "headway_broken_streams_total", pool="p") == 1


def test_tenants_that_are_not_listed_share_one_label() -> None:
    one = metrics()
    for i in range(100):
        one.recorded(replace(RECORD, tenant=f"stranger-{i}"))
    assert value(one, "headway_requests_total", pool="p", outcome="completed", tenant="other") == 100


def test_the_fleet_is_read_when_it_is_asked() -> None:
    one = metrics()
    assert value(one, "headway_queue_depth", pool="") == 4
    assert value(one, "headway_queue_depth", pool="p") == 2
    assert value(one, "headway_inflight", pool="p") == 3
    assert value(one, "headway_upstream_connections") == 9
    assert value(one, "headway_build_info", version="1.2.3") == 1


def test_what_waits_for_kv_cache_and_what_outgrew_its_share_is_counted() -> None:
    kv = {"share": 1.0}
    plane = control_plane(parse({"pools": [POOL], "limits": {"kv_budget": kv}}), ArtifactStore(None, None))
    plane.add_worker(WorkerSpec("w", "p", "http://w", 2, kv_tokens=600), 0.0)
    one = metrics(held_for_kv=plane.held_for_kv, view=lambda: plane.view(0.0))
    for name in ("runs", "waits"):
        plane.submit(Ticket(name, "p", prompt_tokens=100), 0.0)
        plane.dispatch(0.0)
    plane.on_tokens("runs", 300, 0.0)
    assert value(one, "headway_held_for_kv_total") == 1
    assert value(one, "headway_worker_outgrown_total", worker="w", pool="p") == 1
    assert value(metrics(), "headway_held_for_kv_total") == 0


def test_what_is_heard_of_caches_is_counted_by_worker_and_absent_where_nothing_is() -> None:
    stats = KvStats(messages=1, events=2, unknown=3, malformed=4, gaps=5, replays=6, resets=7, failures=8)
    one = metrics(kv=lambda: {"w": stats})
    names = ("messages", "events", "unknown", "malformed", "gaps", "replays", "resets", "failures")
    assert [value(one, f"headway_kv_{name}_total", worker="w") for name in names] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert b"headway_kv_" not in metrics().page()


def test_stages_and_reasons_are_told() -> None:
    one = metrics()
    assert value(one, "headway_stage_total", stage="tier", implementation="threshold", outcome="scored") == 2
    assert value(one, "headway_stage_total", stage="tier", implementation="threshold", outcome="fallback") == 0
    reason = {"stage": "tier", "implementation": "best_effort", "reason": "no_artifact"}
    assert value(one, "headway_fallbacks_total", **reason) == 1


def test_an_artifact_that_is_absent_is_told_like_one_that_is_there() -> None:
    standings = (
        Standing("length", "fast", ArtifactState.ACTIVE, "1", "ab"),
        Standing("quality", "llmrouter", ArtifactState.ABSENT),
    )
    one = metrics(artifacts=standings)
    labels = {"kind": "length", "name": "fast", "version": "1", "sha256": "ab", "state": "active"}
    assert value(one, "headway_artifact_info", **labels) == 1
    absent = {"kind": "quality", "name": "llmrouter", "version": "", "sha256": "", "state": "absent"}
    assert value(one, "headway_artifact_info", **absent) == 1


def test_two_gateways_in_one_process_do_not_share_counters() -> None:
    first, second = metrics(), metrics()
    first.refused("invalid_json")
    assert value(first, "headway_not_served_total", code="invalid_json") == 1
    assert value(second, "headway_not_served_total", code="invalid_json") is None


def test_a_stream_that_went_on_elsewhere_is_not_taken_for_one_that_waited_long() -> None:
    one = metrics()
    one.recorded(replace(RECORD, attempts=2, continued=1, dispatched_at=12.0))
    assert value(one, "headway_continuations_total", pool="p") == 1
    assert value(one, "headway_queue_seconds_count", pool="p", **{"class": "paying"}) == 0


def test_limits_are_counted_by_class_and_other_reasons_are_not() -> None:
    one = metrics()
    refused = replace(RECORD, result=Result.REJECTED, dispatched_at=None, first_token_at=None, usage=None, pool=None)
    for code in ("rate_limit_exceeded", "concurrency_limit_exceeded", "queue_full", "no_worker"):
        one.recorded(replace(refused, code=code))
    samples = read(one.page())
    limited = {
        dict(labels)["code"]: dict(labels)["class"] for name, labels in samples if name == "headway_limited_total"
    }
    assert limited == dict.fromkeys(("rate_limit_exceeded", "concurrency_limit_exceeded", "queue_full"), "paying")


def test_tenants_are_called_by_their_new_names_after_a_reload() -> None:
    one = metrics()
    one.tenants = Tenants(parse({"pools": [POOL], "tenants": [{"name": "silver", "class": "trying"}]}))
    one.recorded(replace(RECORD, tenant="silver"))
    assert value(one, "headway_requests_total", pool="p", outcome="completed", tenant="silver") == 1
    assert value(one, "headway_request_seconds_count", pool="p", **{"class": "trying"}) == 1


FLOODS: dict[str, Callable[[Metrics, int], None]] = {
    "tenants": lambda one, i: one.recorded(replace(RECORD, tenant=f"t{i}")),
    "workers": lambda one, i: one.worker_error(f"w{i}", "connect_error"),
    "a worker's statuses": lambda one, i: one.worker_error("w", f"status_{i}"),
    "statuses inside streams": lambda one, i: one.recorded(
        replace(RECORD, result=Result.FAILED, code=f"status_{10**i % 9973}", usage=None)
    ),
    "codes": lambda one, i: one.refused(f"code-{i}"),
    "reasons": lambda one, i: one.not_continued(f"reason {i}"),
    "pools and classes": lambda one, i: one.series(f"p{i}", "c").queue(1.0),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_no_family_has_more_series_than_it_may(flood: str) -> None:
    one = metrics()
    for i in range(MOST + 500):
        FLOODS[flood](one, i)
    series: dict[str, set[Any]] = {}
    for name, labels in read(one.page()):
        series.setdefault(name, set()).add(tuple(pair for pair in labels if pair[0] != "le"))
    assert max(map(len, series.values())) <= MOST + 1


def test_what_is_beyond_the_bound_is_counted_all_the_same() -> None:
    one = metrics()
    for i in range(MOST + 500):
        one.worker_error(f"w{i}", "connect_error")
    assert value(one, "headway_worker_errors_total", worker="other", code="other") == 500


def test_the_breaker_of_each_worker_is_shown() -> None:
    one_error = {"breaker_errors": 1, "breaker_s": 5}
    plane = control_plane(parse({"pools": [POOL], "retries": one_error}), ArtifactStore(None, None))
    plane.add_worker(WorkerSpec("w", "p", "http://127.0.0.1:1", 4), 0.0)
    one = metrics(view=lambda: plane.view(1.0))

    def state() -> list[str]:
        states = ("closed", "half_open", "open")
        shown = [value(one, "headway_worker_breaker", worker="w", pool="p", state=state) for state in states]
        return [state for state, on in zip(states, shown, strict=True) if on]

    assert state() == ["closed"]
    plane.submit(Ticket("t", "p", prompt_chars=4), 0.0)
    assert plane.dispatch(0.0)
    plane.on_worker_error("t", "connect_error", 0.5, retryable=False)
    assert state() == ["open"]
    plane.dispatch(20.0)
    assert state() == ["half_open"]
