from __future__ import annotations

import os
from pathlib import Path

import pytest

from upstream.errors import MetricsError
from upstream.metrics import parse

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m8b"} 3.0
vllm:num_requests_running{engine="1",model_name="m8b"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m\\"8}b"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m8b",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m8b"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m8b"} 0.75
vllm:prefix_cache_queries_total{engine="0",model_name="m8b"} 435712.0
vllm:prefix_cache_queries_created{engine="0",model_name="m8b"} 1.7953313695107236e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m8b"} 1e3
vllm:generation_tokens_total{engine="0",model_name="m8b"} 12.0
"""


def test_engines_are_summed_and_cache_usage_is_their_mean() -> None:
    found = parse(PAGE)
    assert (found.running, found.waiting, found.kv_usage) == (5, 7, 0.5)
    assert (found.prefix_queries, found.prefix_hits, found.generation_tokens) == (435712, 1000, 12)


def test_what_stands_between_a_series_samples_hides_none() -> None:
    page = PAGE.replace(
        'vllm:num_requests_running{engine="1"', '# merged\n\nother 1\nvllm:num_requests_running{engine="1"'
    )
    assert parse(page).running == 5


def test_a_counter_that_is_missing_is_none_not_zero() -> None:
    assert parse(PAGE).preemptions is None


def test_the_older_name_of_a_series_is_known() -> None:
    assert parse(PAGE.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")).kv_usage == 0.5


@pytest.mark.parametrize("name", ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"])
def test_a_needed_series_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(MetricsError, match=name):
        parse(PAGE.replace(f"vllm:{name}{{", f"vllm:renamed_{name}{{"))


@pytest.mark.parametrize("value", ["NaN", "+Inf", "many"])
def test_a_value_that_is_no_finite_number_is_named(value: str) -> None:
    with pytest.raises(MetricsError, match="num_requests_running"):
        parse(PAGE.replace("} 3.0", f"}} {value}"))


def test_a_page_of_a_real_worker() -> None:
    folder = os.environ.get("HEADWAY_DATA")
    page = Path(folder, "h100", "vllm_metrics_0.24.txt") if folder else None
    if page is None or not page.exists():
        pytest.skip("HEADWAY_DATA names no folder with h100/vllm_metrics_0.24.txt")
    found = parse(page.read_text())
    assert (found.running, found.waiting, found.kv_usage) == (0, 0, 0.0)
    assert found.prefix_queries == 435712
