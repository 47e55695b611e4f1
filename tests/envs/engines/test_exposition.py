"""The metrics page reads as Prometheus text, with vLLM's names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from envs.engines.base import EngineState
from envs.engines.exposition import WorkerStatistics, page
from envs.engines.sequence import EngineTotals
from tests.envs.engines.profiles import profile
from upstream.metrics import parse


def sample_page() -> str:
    statistics = WorkerStatistics()
    statistics.first_token(0.03)
    statistics.more_tokens(4, 0.1)
    statistics.ended("stop", 0.9, prompt=7, produced=5, max_tokens=16, decode=0.8)
    state = EngineState(at=1.0, running=3, waiting=2, kv_usage=0.25, preemptions=1, prefix_queries=60, prefix_hits=48)
    return page('a "model"', profile(), state, EngineTotals(9, 70, 50, 1), statistics)


def test_the_gateways_own_parser_reads_it() -> None:
    read = parse(sample_page())
    assert (read.running, read.waiting, read.kv_usage, read.preemptions) == (3, 2, 0.25, 1)
    assert (read.prompt_tokens, read.generation_tokens) == (70, 50)
    assert (read.prefix_queries, read.prefix_hits) == (60, 48)


def test_prometheus_reads_it() -> None:
    families = {family.name: family for family in text_string_to_metric_families(sample_page())}
    latency = {s.labels.get("le"): s.value for s in families["vllm:e2e_request_latency_seconds"].samples}
    assert (latency["0.8"], latency["1.0"], latency["+Inf"]) == (0.0, 1.0, 1.0)
    gaps = families["vllm:inter_token_latency_seconds"].samples
    assert next(s.value for s in gaps if s.name.endswith("_count")) == 4.0
    assert next(s.value for s in gaps if s.name.endswith("_sum")) == pytest.approx(0.1)
    assert all(s.labels["model_name"] == 'a "model"' for s in families["vllm:num_requests_running"].samples)


def test_every_series_is_one_of_vllms() -> None:
    """Against the page of a real server, where the data folder is at hand."""
    folder = os.environ.get("HEADWAY_DATA")
    real = Path(folder) / "h100" / "vllm_metrics_0.24.txt" if folder else None
    if real is None or not real.exists():
        pytest.skip("needs HEADWAY_DATA with h100/vllm_metrics_0.24.txt")
    theirs = {f.name: f for f in text_string_to_metric_families(real.read_text())}
    newer = {"vllm:admission_rejections"}
    for family in text_string_to_metric_families(sample_page()):
        if family.name in newer:
            continue
        known = {s.name: set(s.labels) for s in theirs[family.name].samples}
        for sample in family.samples:
            assert set(sample.labels) <= known[sample.name]
            assert family.type == theirs[family.name].type
