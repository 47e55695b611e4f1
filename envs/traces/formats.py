"""Which formats of traces there are, which one a file is in, and opening it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from envs.traces import azure, burstgpt, measured, mooncake, servegen, vllm_bench
from envs.traces.clients import is_pool
from envs.traces.reading import TokenCount, TraceError, estimated_tokens, opened
from envs.traces.sharegpt import read_sharegpt
from envs.traces.stored import KEYS, is_parquet, read_stored
from envs.workloads import Arrival, ArrivalProcess, Pace

_HEAD_CHARS = 1 << 16
_LINE_CHARS = 1 << 22


@dataclass(frozen=True, slots=True)
class Reading:
    """How a trace is read: the part of it, and what it does not say itself."""

    start: int = 0
    limit: int | None = None
    process: ArrivalProcess | None = None
    """When requests, or conversations, come, for formats without times."""
    seed: int = 0
    """Of ``process`` and of formats that are drawn from."""
    count: TokenCount = estimated_tokens
    """How texts are counted, for formats that hold texts."""
    pace: Pace = field(default_factory=Pace)

    @property
    def bounds(self) -> dict[str, Any]:
        """``start`` and ``limit``, as readers take them."""
        return {"start": self.start, "limit": self.limit}


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a file: what a format is recognised by."""

    folder: bool = False
    parquet: bool = False
    text: str = ""
    columns: frozenset[str] = frozenset()
    """Of the first line, read as CSV."""
    keys: frozenset[str] = frozenset()
    """Of the first line, where it is a JSON object."""

    @classmethod
    def of(cls, path: Path) -> Head:
        """Look into a file. Raises ``TraceError`` where there is none."""
        if not path.exists():
            raise TraceError(f"{path}: there is no such file")
        if path.is_dir():
            return cls(folder=True)
        if is_parquet(path):
            return cls(parquet=True)
        with opened(path) as file:
            line = file.readline(_LINE_CHARS)
            text = (line + file.read(_HEAD_CHARS))[:_HEAD_CHARS]
        columns = frozenset(name.strip().strip('"') for name in line.split(","))
        return cls(text=text.lstrip(), columns=columns, keys=_keys(line))

    def array_of(self, *names: str) -> bool:
        """Whether this begins a JSON array in which all these keys are seen."""
        return self.text.startswith("[") and all(f'"{name}"' in self.text for name in names)


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its name, what it is, whether it has times, how it is recognised, and how it is read."""

    name: str
    title: str
    timed: bool
    fits: Callable[[Path, Head], bool]
    read: Callable[[Path, Reading], Iterator[Arrival]]


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace that can be read more than once; each time from its start, as a stream."""

    path: Path
    format: Format
    reading: Reading

    def __iter__(self) -> Iterator[Arrival]:
        return self.format.read(self.path, self.reading)


def open_trace(path: Path | str, format: str | None = None, reading: Reading | None = None) -> Trace:
    """A trace in any of the :data:`FORMATS`, which its content tells unless ``format`` names one.

    Iterating gives :class:`~envs.workloads.Arrival` in order of time, the first at 0 s, all with lengths; errors in the
    file come up there. Raises ``TraceError`` where there is no such file or format, where the content fits none, and
    where the format has no times and ``reading`` gives no process for them.
    """
    path, reading = Path(path), reading or Reading()
    known = _named(format) if format else detected(path)
    if format and not path.exists():
        raise TraceError(f"{path}: there is no such file")
    if not known.timed and reading.process is None:
        raise TraceError(f"{path}: {known.title} has no times: an arrival process is needed, such as a rate")
    return Trace(path, known, reading)


def detected(path: Path) -> Format:
    """The format of a file by its content."""
    head = Head.of(path)
    for known in FORMATS.values():
        if known.fits(path, head):
            return known
    raise TraceError(f"{path}: not a trace in a known format; there are:\n{described()}")


def described() -> str:
    """A line for each format."""
    return "\n".join(f"  {known.name:<12} {known.title}" for known in FORMATS.values())


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise TraceError(f"there is no format {name!r}; there are:\n{described()}")
    return FORMATS[name]


def _keys(line: str) -> frozenset[str]:
    try:
        row = json.loads(line)
    except ValueError:
        return frozenset()
    return frozenset(row) if isinstance(row, dict) else frozenset()


def _process(reading: Reading) -> ArrivalProcess:
    if reading.process is None:
        raise TraceError("this format has no times: an arrival process is needed, such as a rate")
    return reading.process


def _is_servegen(path: Path, head: Head) -> bool:
    generated = set(servegen.COLUMNS) <= head.columns
    return is_pool(path) or generated or head.array_of(*servegen.TURN_KEYS)


def _is_result(_: Path, head: Head) -> bool:
    return head.text.startswith("{") and all(f'"{key}"' in head.text for key in ("request_throughput", "backend"))


_ALL = (
    Format(
        "headway",
        "headway's own: Parquet or JSON lines with at, prompt_tokens, output_tokens, …",
        True,
        lambda _, head: head.parquet or set(KEYS) <= head.keys,
        lambda path, reading: read_stored(path, **reading.bounds),
    ),
    Format(
        "azure",
        "Azure LLM inference trace: CSV with TIMESTAMP, ContextTokens, GeneratedTokens",
        True,
        lambda _, head: set(azure.COLUMNS) <= head.columns,
        lambda path, reading: azure.read_azure(path, **reading.bounds),
    ),
    Format(
        "mooncake",
        "Mooncake: JSON lines with timestamp (ms), input_length, output_length, hash_ids",
        True,
        lambda _, head: set(mooncake.KEYS) <= head.keys and not head.keys & mooncake.FOREIGN,
        lambda path, reading: mooncake.read_mooncake(path, **reading.bounds),
    ),
    Format(
        "burstgpt",
        "BurstGPT: CSV with Timestamp, Model, Request tokens, Response tokens, …",
        True,
        lambda _, head: set(burstgpt.COLUMNS) <= head.columns,
        lambda path, reading: burstgpt.read_burstgpt(path, **reading.bounds),
    ),
    Format(
        "measured",
        "a measurement of headway: CSV with arrival, prompt_tokens, output_tokens, …",
        True,
        lambda _, head: set(measured.COLUMNS) <= head.columns,
        lambda path, reading: measured.read_measured(path, **reading.bounds),
    ),
    Format(
        "servegen",
        "ServeGen: a generated CSV, conversations_hashed.json, or a folder of chunk-*-trace.csv",
        True,
        _is_servegen,
        lambda path, reading: servegen.read_servegen(path, seed=reading.seed, **reading.bounds),
    ),
    Format(
        "sharegpt",
        "ShareGPT: JSON conversations of from and value",
        False,
        lambda _, head: head.array_of("conversations") or "conversations" in head.keys,
        lambda path, reading: read_sharegpt(
            path, _process(reading), seed=reading.seed, pace=reading.pace, count=reading.count, **reading.bounds
        ),
    ),
    Format(
        "vllm-bench",
        "a result of vllm bench serve --save-result --save-detailed: JSON",
        True,
        _is_result,
        lambda path, reading: vllm_bench.read_vllm_bench(path, reading.process, seed=reading.seed, **reading.bounds),
    ),
    Format(
        "vllm-custom",
        "a custom dataset of vllm bench serve: JSON lines with prompt, output_tokens",
        False,
        lambda _, head: set(vllm_bench.CUSTOM_KEYS) <= head.keys,
        lambda path, reading: vllm_bench.read_vllm_custom(
            path, _process(reading), seed=reading.seed, count=reading.count, **reading.bounds
        ),
    ),
)
FORMATS: Mapping[str, Format] = MappingProxyType({known.name: known for known in _ALL})
"""By name, in the order in which they are tried."""
