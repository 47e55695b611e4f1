"""Traces: readers of public formats and headway's own, all as streams of arrivals; replays at another speed.

:func:`open_trace` reads any of :data:`FORMATS`.
"""

from envs.traces.azure import read_azure
from envs.traces.burstgpt import read_burstgpt
from envs.traces.formats import FORMATS, Format, Reading, Trace, described, detected, open_trace
from envs.traces.measured import read_measured
from envs.traces.mooncake import read_mooncake
from envs.traces.reading import TraceError, estimated_tokens
from envs.traces.scaling import Span, at_rate, span_of, stretched
from envs.traces.servegen import read_servegen
from envs.traces.sharegpt import read_sharegpt
from envs.traces.stored import Written, read_stored, write
from envs.traces.vllm_bench import read_vllm_bench, read_vllm_custom

__all__ = [
    "FORMATS",
    "Format",
    "Reading",
    "Span",
    "Trace",
    "TraceError",
    "Written",
    "at_rate",
    "described",
    "detected",
    "estimated_tokens",
    "open_trace",
    "read_azure",
    "read_burstgpt",
    "read_measured",
    "read_mooncake",
    "read_servegen",
    "read_sharegpt",
    "read_stored",
    "read_vllm_bench",
    "read_vllm_custom",
    "span_of",
    "stretched",
    "write",
]
