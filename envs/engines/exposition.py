"""The simulated worker's ``/metrics``: vLLM's series under vLLM 0.24–0.32's names, in the Prometheus text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from envs.engines.base import EnginePhase, EngineState
from envs.engines.sequence import EngineTotals
from predictors.latency.model import Profile

_TTFT: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
_TOKENS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
_REASONS: Final = ("stop", "length", "abort", "error", "repetition")
_ADMISSION: Final = ("max_num_queued_reqs", "max_num_queued_tokens")

_Labels = Mapping[str, str]


class Histogram:
    """Counts by bucket, Prometheus' way."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or several alike."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: _Labels) -> Iterator[str]:
        """The samples."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", total, {**labels, "le": bound})
        yield _sample(f"{name}_count", total, labels)
        yield _sample(f"{name}_sum", self._sum, labels)


class WorkerStatistics:
    """What the worker counts beside the engine's own gauges and totals."""

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.histograms = {
            "vllm:time_to_first_token_seconds": Histogram(_TTFT),
            "vllm:inter_token_latency_seconds": Histogram(_PER_TOKEN),
            "vllm:request_time_per_output_token_seconds": Histogram(_PER_TOKEN),
            "vllm:e2e_request_latency_seconds": Histogram(_LATENCY),
            "vllm:request_prompt_tokens": Histogram(_TOKENS),
            "vllm:request_generation_tokens": Histogram(_TOKENS),
            "vllm:request_params_max_tokens": Histogram(_TOKENS),
        }

    def first_token(self, seconds: float) -> None:
        """A request showed its first token."""
        self.histograms["vllm:time_to_first_token_seconds"].observe(seconds)

    def more_tokens(self, count: int, seconds: float) -> None:
        """``count`` further tokens came over ``seconds``."""
        self.histograms["vllm:inter_token_latency_seconds"].observe(seconds / count, count)

    def ended(self, reason: str, seconds: float, prompt: int, produced: int, max_tokens: int, decode: float) -> None:
        """A request ended: after how long, its sizes, and how much of that came after its first token."""
        self.finished[reason] += 1
        self.histograms["vllm:e2e_request_latency_seconds"].observe(seconds)
        self.histograms["vllm:request_prompt_tokens"].observe(prompt)
        self.histograms["vllm:request_generation_tokens"].observe(produced)
        self.histograms["vllm:request_params_max_tokens"].observe(max_tokens)
        if produced > 1:
            self.histograms["vllm:request_time_per_output_token_seconds"].observe(decode / (produced - 1))


def page(model: str, profile: Profile, state: EngineState, totals: EngineTotals, statistics: WorkerStatistics) -> str:
    """The whole page."""
    labels = {"engine": "0", "model_name": model}
    lines: list[str] = []

    def series(name: str, kind: str, samples: Iterable[str]) -> None:
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(samples)

    def plain(name: str, kind: str, value: float) -> None:
        name += "_total" if kind == "counter" else ""
        series(name, kind, [_sample(name, value, labels)])

    plain("vllm:num_requests_running", "gauge", state.running)
    plain("vllm:num_requests_waiting", "gauge", state.waiting)
    waiting = {"capacity": state.waiting, "deferred": 0}
    name = "vllm:num_requests_waiting_by_reason"
    series(name, "gauge", (_sample(name, value, {**labels, "reason": reason}) for reason, value in waiting.items()))
    awake = state.phase is not EnginePhase.SLEEPING
    sleep = {"awake": awake, "weights_offloaded": not awake, "discard_all": False}
    name = "vllm:engine_sleep_state"
    series(name, "gauge", (_sample(name, value, {**labels, "sleep_state": level}) for level, value in sleep.items()))
    plain("vllm:kv_cache_usage_perc", "gauge", state.kv_usage)
    plain("vllm:prefix_cache_queries", "counter", state.prefix_queries)
    plain("vllm:prefix_cache_hits", "counter", state.prefix_hits)
    plain("vllm:num_preemptions", "counter", totals.preemptions)
    plain("vllm:prompt_tokens", "counter", totals.prefill_tokens)
    plain("vllm:generation_tokens", "counter", totals.output_tokens)
    name = "vllm:request_success_total"
    finished = ((reason, statistics.finished[reason]) for reason in _REASONS)
    series(name, "counter", (_sample(name, v, {**labels, "finished_reason": r}) for r, v in finished))
    name = "vllm:admission_rejections_total"
    refused = ((reason, statistics.refused[reason]) for reason in _ADMISSION)
    series(name, "counter", (_sample(name, v, {"model_name": model, "reason": r}) for r, v in refused))
    for name, histogram in statistics.histograms.items():
        series(name, "histogram", histogram.lines(name, labels))
    series(
        "vllm:cache_config_info", "gauge", [_sample("vllm:cache_config_info", 1, {**_cache(profile), "engine": "0"})]
    )
    return "\n".join(lines) + "\n"


def _cache(profile: Profile) -> dict[str, str]:
    return {
        "block_size": str(profile.block_size),
        "enable_prefix_caching": "False",
        "kv_cache_size_tokens": str(profile.kv_blocks * profile.block_size),
        "num_gpu_blocks": str(profile.kv_blocks),
    }


def _sample(name: str, value: float, labels: _Labels) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in sorted(labels.items()))
    return f"{name}{{{inside}}} {float(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
