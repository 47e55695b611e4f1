"""What a worker says of itself: vLLM's Prometheus page, read under every name that its series have had.

Series were renamed between releases (``gpu_cache_usage_perc`` became ``kv_cache_usage_perc``, for one), and a gateway
that reads a missing series as zero sends everything to one worker: a missing series that headway needs is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from upstream.errors import MetricsError

__all__ = ["WorkerMetrics", "parse"]

_ALIASES = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "vllm:prompt_tokens"),
    "generation_tokens": ("vllm:generation_tokens_total", "vllm:generation_tokens"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
}
_NEEDED = ("running", "waiting", "kv_usage")
_FIELD_OF = {name: field for field, names in _ALIASES.items() for name in names}
_LABELS = r"\{(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*\}"
_SAMPLE = re.compile(rf"^({'|'.join(map(re.escape, _FIELD_OF))})(?:{_LABELS})?[ \t]+(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One reading. Counts are summed over the page's engines, ``kv_usage`` (0 to 1) is their mean.

    The counters (requests preempted; tokens) count from the worker's start and are ``None`` where the page has no such
    series.
    """

    running: int
    waiting: int
    kv_usage: float
    preemptions: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    prefix_queries: int | None = None
    prefix_hits: int | None = None


def parse(page: str) -> WorkerMetrics:
    """Read a metrics page. Raises MetricsError naming the series that is missing or is no number."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, value in _SAMPLE.findall(page):
        by_name[name].append(_number(name, value))
    readings = {field: _first(by_name, names) for field, names in _ALIASES.items()}
    for field in _NEEDED:
        if not readings[field]:
            raise MetricsError(f"the metrics page has none of {', '.join(_ALIASES[field])}")
    totals = {field: int(sum(values)) if values else None for field, values in readings.items()}
    kv = readings["kv_usage"]
    return WorkerMetrics(
        running=int(sum(readings["running"])),
        waiting=int(sum(readings["waiting"])),
        kv_usage=sum(kv) / len(kv),
        preemptions=totals["preemptions"],
        prompt_tokens=totals["prompt_tokens"],
        generation_tokens=totals["generation_tokens"],
        prefix_queries=totals["prefix_queries"],
        prefix_hits=totals["prefix_hits"],
    )


def _first(by_name: dict[str, list[float]], names: tuple[str, ...]) -> list[float]:
    return next((by_name[name] for name in names if name in by_name), [])


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise MetricsError(f"{name} has the value {text!r}, which is no number") from error
    if value != value or value in (float("inf"), float("-inf")):
        raise MetricsError(f"{name} has the value {text!r}, which is not finite")
    return value
