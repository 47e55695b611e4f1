"""What a worker says of itself: vLLM's Prometheus page, read under every name that its series have had.

Series were renamed between releases (``gpu_cache_usage_perc`` became ``kv_cache_usage_perc``, for one), and a gateway
that reads a missing series as zero sends everything to one worker: a missing series that headway needs is an error.
"""

from __future__ import annotations

import re
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
_LABELS = r"\{(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*\}"
_REST = re.compile(rf"(?:{_LABELS})?[ \t]+(\S+)")
"""What follows a series' name."""


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
    page = f"\n{page}"
    readings = {field: _first(page, names) for field, names in _ALIASES.items()}
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


def _samples(page: str, name: str) -> list[float]:
    """The series' values. A page has fifty kilobytes, so names are looked for, and lines are not."""
    values: list[float] = []
    line = f"\n{name}"
    at = page.find(line)
    while at >= 0:
        rest = _REST.match(page, at + len(line))
        if rest is not None:  # else a longer name
            values.append(_number(name, rest.group(1)))
        at = page.find(line, at + 1)
    return values


def _first(page: str, names: tuple[str, ...]) -> list[float]:
    return next((values for name in names if (values := _samples(page, name))), [])


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise MetricsError(f"{name} has the value {text!r}, which is no number") from error
    if value != value or value in (float("inf"), float("-inf")):
        raise MetricsError(f"{name} has the value {text!r}, which is not finite")
    return value
