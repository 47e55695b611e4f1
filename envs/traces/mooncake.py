"""Mooncake's traces (Apache-2.0): conversation, toolagent and synthetic, JSON lines.

Keys: ``timestamp`` (milliseconds), ``input_length``, ``output_length``, ``hash_ids`` (one per 512 tokens of the prompt,
the last one partial); documented in FAST25-release of github.com/kvcache-ai/Mooncake. Many rows share a time stamp. The
dataset ``timed_trace`` of ``vllm bench serve`` has the same keys, but its units and block size are options: only those
of Mooncake are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.traces.reading import json_lines, ordered, parsed, part, requests_only
from envs.workloads import Arrival, Lengths

KEYS = ("timestamp", "input_length", "output_length")
FOREIGN = frozenset({"chat_id"})
"""A key of Bailian's traces, which look the same but count seconds and blocks of 16."""
BLOCK = 512


def read_mooncake(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of a Mooncake trace from request ``start`` on; the first of them comes at 0 s.

    The prefix is the ``hash_ids`` of the prompt's full blocks: that of a partial last block is dropped, since no other
    prompt shares a partial block.
    """
    rows = (parsed(path, number, row, _arrival) for number, row in json_lines(path))
    return part(ordered(path, requests_only(rows)), start, limit)


def _arrival(row: dict[str, Any]) -> Arrival:
    prompt = int(row["input_length"])
    hashes = row.get("hash_ids", ())
    if len(hashes) > -(-prompt // BLOCK):
        raise ValueError(f"{len(hashes)} hash_ids for {prompt} tokens are not blocks of {BLOCK}")
    prefix = tuple(map(int, hashes[: prompt // BLOCK]))
    return Arrival(float(row["timestamp"]) / 1000.0, lengths=Lengths(prompt, int(row["output_length"]), prefix, BLOCK))
