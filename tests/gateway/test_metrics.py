from __future__ import annotations

from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from controller.types import DecisionRecord, PoolSpec, Result, Usage
from controller.view import FleetView, PoolView
from gateway.metrics import ArtifactState, Metrics, Standing, Status

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
    return Metrics(Status(**{**given, **status}), ["gold"], "1.2.3")


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
    assert value(one, "headway_queue_seconds_sum", pool="p") == 0.5
    assert value(one, "headway_time_to_first_token_seconds_sum", pool="p", tenant="gold") == 1.0
    assert value(one, "headway_request_seconds_sum", pool="p", tenant="gold") == 4.0
    assert value(one, "headway_tokens_total", pool="p", kind="output") == 7
    assert value(one, "headway_tokens_total", pool="p", kind="cached") == 2


def test_an_answer_that_came_at_once_has_no_first_token() -> None:
    one = metrics()
    one.recorded(replace(RECORD, first_token_at=14.0))
    assert value(one, "headway_time_to_first_token_seconds_count", pool="p", tenant="gold") is None


def test_a_failure_has_its_reason_and_counts_its_attempts() -> None:
    one = metrics()
    one.recorded(replace(RECORD, result=Result.FAILED, code="connect_error", usage=None, attempts=3))
    assert value(one, "headway_not_served_total", code="connect_error") == 1
    assert value(one, "headway_retries_total", pool="p") == 2
    assert value(one, "headway_request_seconds_count", pool="p", tenant="gold") is None


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
