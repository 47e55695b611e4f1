"""What ``vllm bench serve`` writes and reads.

* Its result with ``--save-result --save-detailed`` (vllm/benchmarks/serve.py): a JSON object with ``input_lens``,
  ``output_lens``, ``start_times`` (seconds of a monotonic clock), ``errors``, ``ttfts``, ``itls`` …, one entry a
  request; with ``--append-result`` one such object after another.
* Its custom dataset (``--dataset-name custom``, class CustomDataset): JSON lines of ``{"prompt", "output_tokens"}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Any

import numpy as np

from envs.traces.reading import (
    TokenCount,
    TraceError,
    estimated_tokens,
    json_lines,
    opened,
    parsed,
    part,
    requests_only,
)
from envs.workloads import Arrival, ArrivalProcess, Lengths

RESULT_KEYS = ("input_lens", "output_lens")
CUSTOM_KEYS = ("prompt",)


def read_vllm_bench(
    path: Path, process: ArrivalProcess | None = None, *, seed: int = 0, start: int = 0, limit: int | None = None
) -> Iterator[Arrival]:
    """The requests that a benchmark sent, when it sent them; failed ones are left out.

    Runs that were appended follow one another. ``process`` gives the times where vLLM, before 0.11, saved none. A run
    is one JSON object, so a run is what is held at a time.
    """
    return part(requests_only(_runs(path, process, seed)), start, limit)


def read_vllm_custom(
    path: Path,
    process: ArrivalProcess,
    *,
    seed: int = 0,
    count: TokenCount = estimated_tokens,
    start: int = 0,
    limit: int | None = None,
) -> Iterator[Arrival]:
    """The prompts of a custom dataset, in order, at the times of ``process``. Rows need ``output_tokens``."""

    def lengths(row: dict[str, Any]) -> Lengths:
        if "output_tokens" not in row:
            raise ValueError("no output_tokens, without which the length of the answer is not known")
        return Lengths(count(row["prompt"]), int(row["output_tokens"]))

    sizes = (parsed(path, number, row, lengths) for number, row in json_lines(path))
    times = process.times(np.random.default_rng(seed))
    rows = (Arrival(at, lengths=one) for at, one in zip(times, sizes, strict=False))
    return part(requests_only(rows), start, limit)


def _runs(path: Path, process: ArrivalProcess | None, seed: int) -> Iterator[Arrival]:
    begun = 0.0
    for number, run in zip(numbers(1), _objects(path), strict=False):
        missing = [key for key in RESULT_KEYS if key not in run]
        if missing:
            raise TraceError(f"{path}, run {number}: no {' and '.join(missing)}; run vllm bench with --save-detailed")
        inputs, outputs = run["input_lens"], run["output_lens"]
        times = run.get("start_times") or _drawn(path, process, seed, len(inputs))
        if not len(inputs) == len(outputs) == len(times):
            raise TraceError(f"{path}, run {number}: input_lens, output_lens and start_times differ in length")
        rows = sorted(zip(times, inputs, outputs, strict=True), key=lambda row: float(row[0]))
        first = float(rows[0][0]) if rows else 0.0
        for at, prompt, output in rows:
            yield Arrival(begun + float(at) - first, lengths=Lengths(int(prompt), int(output)))
        begun += float(run.get("duration") or (float(rows[-1][0]) - first if rows else 0.0))


def _drawn(path: Path, process: ArrivalProcess | None, seed: int, count: int) -> list[float]:
    if process is None:
        raise TraceError(f"{path}: no start_times in it: an arrival process is needed, such as a rate")
    return [at for at, _ in zip(process.times(np.random.default_rng(seed)), range(count), strict=False)]


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """One object after another, with nothing or white space between them."""
    decoder = json.JSONDecoder()
    with opened(path) as file:
        text = file.read().strip()
    place = 0
    while place < len(text):
        try:
            run, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise TraceError(f"{path}: not a result of vllm bench serve: {error}") from error
        if not isinstance(run, dict):
            raise TraceError(f"{path}: not a result of vllm bench serve, which is a JSON object")
        yield run
        while place < len(text) and text[place].isspace():
            place += 1
