from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway.instruments import Counter, Histogram

VALUES = st.lists(st.tuples(st.sampled_from(["a", 'b"\n']), st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0])), max_size=20)


@given(VALUES)
def test_the_page_is_the_one_that_prometheus_clients_own_would_give(values: list[tuple[str, float]]) -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counter = Counter("requests", "Some.", ["pool"], registry=ours)
    histogram = Histogram("seconds", "So long.", ["pool"], buckets=(0.1, 0.5, 1.0), registry=ours)
    bare = Histogram("bare", "Without labels.", buckets=(1.0,), registry=ours)
    their_counter = prometheus_client.Counter("requests", "Some.", ["pool"], registry=theirs)
    their_histogram = prometheus_client.Histogram(
        "seconds", "So long.", ["pool"], buckets=(0.1, 0.5, 1.0), registry=theirs
    )
    their_bare = prometheus_client.Histogram("bare", "Without labels.", buckets=(1.0,), registry=theirs)
    for pool, value in values:
        counter.labels(pool).inc(value)
        histogram.labels(pool).observe(value)
        bare.labels().observe(value)
        their_counter.labels(pool).inc(value)
        their_histogram.labels(pool).observe(value)
        their_bare.observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


def test_a_wrong_number_of_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 values for the labels pool"):
        Counter("x", "x", ["pool"], registry=CollectorRegistry()).labels("a", "b")
