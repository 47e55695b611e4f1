from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.leases.pages import add_fleets, add_pages


def page(requests: dict[str, int], depth: float, wait: float) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("headway_requests", "Requests.", ["pool"], registry=registry)
    for pool, count in requests.items():
        counter.labels(pool).inc(count)
    Gauge("headway_queue_depth", "Waiting.", ["pool"], registry=registry).labels("p").set(depth)
    Gauge("headway_expected_wait_seconds", "Wait.", ["pool"], registry=registry).labels("p").set(wait)
    seconds = Histogram("headway_queue_seconds", "Queue.", buckets=(1.0, 2.0), registry=registry)
    for value in (0.5, 1.5, 5.0)[: requests.get("p", 0)]:
        seconds.observe(value)
    return generate_latest(registry)


def samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("pool", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_adds_up_is_added_and_the_rest_is_ones_own() -> None:
    whole = samples(add_pages(page({"p": 2}, 3, float("inf")), [page({"p": 3, "q": 7}, 4, 9.0), page({}, 1, 0.0)]))
    assert whole["headway_requests_total", "p"] == 5
    assert whole["headway_requests_total", "q"] == 7
    assert whole["headway_queue_depth", "p"] == 8
    assert whole["headway_expected_wait_seconds", "p"] == float("inf")
    assert whole["headway_queue_seconds_bucket", "1.0"] == 2
    assert whole["headway_queue_seconds_bucket", "+Inf"] == 5
    assert whole["headway_queue_seconds_count", ""] == 5


def test_one_page_alone_stays_what_it_is() -> None:
    alone = page({"p": 1}, 0, 0.25)
    assert samples(add_pages(alone, [])) == samples(alone)


def test_fleets_are_added_worker_by_worker() -> None:
    def fleet(inflight: int, *names: str) -> dict[str, object]:
        workers = [
            {"name": name, "inflight": inflight, "limit": 2, "dispatched": 5, "phase": "ready"} for name in names
        ]
        pool = {"name": "p", "inflight": inflight, "limit": 4, "queued": 1, "workers": workers}
        return {"pools": [pool], "open": 1, "queued": 2, "arrivals_fast": 0.5, "arrivals_slow": 0.25}

    own = fleet(1, "a", "b")
    whole = add_fleets(own, [fleet(2, "a", "other")])
    assert whole["queued"] == 4
    assert whole["pools"][0]["inflight"] == 3
    assert [(w["name"], w["inflight"], w["dispatched"]) for w in whole["pools"][0]["workers"]] == [
        ("a", 3, 10),
        ("b", 1, 5),
    ]
    assert own == fleet(1, "a", "b")
