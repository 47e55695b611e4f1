"""ServeGen (github.com/alibaba/ServeGen, arXiv 2505.09999): workloads of Alibaba's model studio, in three forms.

* A generated workload, as its ``save_requests_to_csv`` writes it: ``request_id``, ``timestamp`` (seconds) and the
  request's data: ``input_tokens``, ``output_tokens``; multimodal ones have ``text_tokens`` and lists of
  ``image_tokens``, ``audio_tokens``, ``video_tokens`` in place of ``input_tokens``.
* ``conversations_hashed.json``: an array of conversations, each an array of turns with ``timestamp`` (seconds),
  ``input_token_count``, ``output_token_count``. What its hashes cover is not documented, so they make no prefix.
* A client pool: a folder of ``chunk-I-trace.csv`` and ``chunk-I-dataset.json``, which :mod:`envs.traces.clients` plays.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.traces.clients import read_clients
from envs.traces.reading import TraceError, json_array, opened, ordered, parsed, part, requests_only
from envs.workloads import Arrival, Lengths

COLUMNS = ("request_id", "timestamp", "output_tokens")
TURN_KEYS = ("timestamp", "input_token_count", "output_token_count")
_PROMPTS = ("input_tokens", "text_tokens", "image_tokens", "audio_tokens", "video_tokens")


def read_servegen(path: Path, *, seed: int = 0, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of any of the three forms from request ``start`` on; the first of them comes at 0 s.

    ``seed`` is of the draws from a client pool; the others are read as they are.
    """
    if path.is_dir():
        return part(read_clients(path, seed), start, limit)
    with opened(path) as file:
        array = file.read(64).lstrip().startswith("[")
    return part(requests_only(_conversations(path) if array else ordered(path, _generated(path))), start, limit)


def _generated(path: Path) -> Iterator[Arrival]:
    with opened(path) as file:
        rows = csv.DictReader(file)
        names = set(rows.fieldnames or ())
        if not set(COLUMNS) <= names or not names & set(_PROMPTS):
            raise TraceError(
                f"{path}: a workload of ServeGen has the columns {COLUMNS} and input_tokens or text_tokens"
            )
        for row in rows:
            yield parsed(path, rows.line_num, row, _request)


def _request(row: dict[str, str]) -> Arrival:
    prompt = sum(_tokens(row[name]) for name in _PROMPTS if row.get(name))
    return Arrival(float(row["timestamp"]), lengths=Lengths(prompt, _tokens(row["output_tokens"])))


def _tokens(text: str) -> int:
    """A count, or the sum of a list of counts."""
    counts = json.loads(text)
    return sum(map(int, counts)) if isinstance(counts, list) else int(counts)


def _conversations(path: Path) -> Iterator[Arrival]:
    """All turns by time. They overlap without bound, so all are held, without their hashes."""
    turns: list[Arrival] = []
    for number, conversation in enumerate(json_array(path)):
        for turn in conversation:
            turns.append(parsed(path, number + 1, (turn, str(number)), _turn))
    yield from sorted(turns, key=lambda arrival: arrival.at)


def _turn(row: tuple[dict[str, Any], str]) -> Arrival:
    turn, session = row
    lengths = Lengths(int(turn["input_token_count"]), int(turn["output_token_count"]))
    return Arrival(float(turn["timestamp"]), lengths=lengths, session=session)
