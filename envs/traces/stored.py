"""headway's own trace: Parquet, or JSON lines with the same names. Written and read in batches.

=================  ===========================================================================================
``at``             seconds from the start, ascending
``prompt_tokens``  tokens of the prompt, 1 or more
``output_tokens``  tokens of the answer, 1 or more
``prefix``         block hashes (0 … 2⁶⁴ − 1), see :class:`envs.workloads.Lengths`; may be left out
``prefix_block``   tokens per block; 512 if left out
``tenant``         ``default`` if left out
``session``        which conversation; null if none
``max_tokens``     the client's limit on the answer; null if none
``deadline_s``     seconds after ``at``; null if none
=================  ===========================================================================================
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from envs.traces.reading import TraceError, json_lines, parsed, part
from envs.workloads import PREFIX_BLOCK, Arrival, Lengths

SUFFIXES: Final = (".parquet", ".jsonl")
_BATCH: Final = 8192
_KEY: Final = b"headway.trace"
_SCHEMA: Final = pa.schema(
    [
        pa.field("at", pa.float64(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("prefix", pa.list_(pa.uint64())),
        pa.field("prefix_block", pa.int32()),
        pa.field("tenant", pa.dictionary(pa.int32(), pa.string())),
        pa.field("session", pa.string()),
        pa.field("max_tokens", pa.int32()),
        pa.field("deadline_s", pa.float64()),
    ]
)
KEYS: Final = ("at", "prompt_tokens", "output_tokens")


_Batch = list[tuple[Arrival, Lengths]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a written trace holds. ``seconds`` is from the first request to the last."""

    path: Path
    requests: int
    seconds: float
    prompt_tokens: int
    output_tokens: int

    @property
    def rate(self) -> float | None:
        """Requests per second; ``None`` of fewer than two moments."""
        return (self.requests - 1) / self.seconds if self.seconds > 0 else None


def read_stored(path: Path, *, start: int = 0, limit: int | None = None) -> Iterator[Arrival]:
    """Arrivals of a trace in headway's format from request ``start`` on; the first of them comes at 0 s."""
    rows = _parquet(path) if is_parquet(path) else _lines(path)
    return part(rows, start, limit)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, whatever its name."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file has, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def note(path: Path) -> Mapping[str, str]:
    """What was written with a Parquet trace about its origin; nothing for JSON lines."""
    if not is_parquet(path):
        return {}
    stored = (pq.read_schema(path).metadata or {}).get(_KEY)
    return {str(key): str(value) for key, value in json.loads(stored).items()} if stored else {}


def write(arrivals: Iterable[Arrival], path: Path, origin: Mapping[str, str] | None = None) -> Written:
    """Write a trace, in one piece: the file is there when it is whole, and as it was before if anything fails.

    ``origin`` (names such as ``source`` and ``licence``) goes into a Parquet file's metadata. Raises ``TraceError`` for
    another suffix, no requests, requests without lengths and times that go back.
    """
    if path.suffix not in SUFFIXES:
        raise TraceError(f"{path}: a trace is written as {' or '.join(SUFFIXES)}")
    tally = _Tally(path)
    with _replacing(path) as draft:
        batches = _batched(tally.watched(arrivals))
        if path.suffix == ".parquet":
            _write_parquet(batches, draft, dict(origin or {}))
        else:
            _write_lines(batches, draft)
        if not tally.requests:
            raise TraceError(f"{path}: not written: there are no requests to write")
    return Written(path, tally.requests, tally.last - tally.first, tally.prompt_tokens, tally.output_tokens)


class _Tally:
    """Counts what passes by, and refuses what is not a trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.requests = self.prompt_tokens = self.output_tokens = 0
        self.first = self.last = 0.0

    def watched(self, arrivals: Iterable[Arrival]) -> Iterator[tuple[Arrival, Lengths]]:
        for arrival in arrivals:
            sizes = arrival.lengths
            if sizes is None:
                raise TraceError(f"{self._path}: request {self.requests} carries a task; a trace holds lengths")
            if self.requests and arrival.at < self.last:
                raise TraceError(f"{self._path}: request {self.requests} comes before the one above it")
            self.first = arrival.at if not self.requests else self.first
            self.last = arrival.at
            self.requests += 1
            self.prompt_tokens += sizes.prompt_tokens
            self.output_tokens += sizes.output_tokens
            yield arrival, sizes


def _columns(rows: list[tuple[Arrival, Lengths]]) -> dict[str, list[Any]]:
    return {
        "at": [arrival.at for arrival, _ in rows],
        "prompt_tokens": [sizes.prompt_tokens for _, sizes in rows],
        "output_tokens": [sizes.output_tokens for _, sizes in rows],
        "prefix": [sizes.prefix for _, sizes in rows],
        "prefix_block": [sizes.prefix_block for _, sizes in rows],
        "tenant": [arrival.tenant for arrival, _ in rows],
        "session": [arrival.session for arrival, _ in rows],
        "max_tokens": [arrival.max_tokens for arrival, _ in rows],
        "deadline_s": [arrival.deadline_s for arrival, _ in rows],
    }


def _write_parquet(batches: Iterator[_Batch], draft: Path, origin: dict[str, str]) -> None:
    schema = _SCHEMA.with_metadata({_KEY: json.dumps({"format": "1", **origin}).encode()})
    with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for rows in batches:
            writer.write_batch(pa.RecordBatch.from_pydict(_columns(rows), schema=schema))


def _write_lines(batches: Iterator[_Batch], draft: Path) -> None:
    with draft.open("w", encoding="utf-8") as file:
        for rows in batches:
            columns = _columns(rows)
            named = (zip(columns, row, strict=True) for row in zip(*columns.values(), strict=True))
            file.writelines(json.dumps({k: v for k, v in row if v is not None}) + "\n" for row in named)


def _batched(rows: Iterator[tuple[Arrival, Lengths]]) -> Iterator[_Batch]:
    return iter(lambda: list(islice(rows, _BATCH)), [])


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place at the end, or is removed where something is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _parquet(path: Path) -> Iterator[Arrival]:
    try:
        with pq.ParquetFile(path) as file:
            if missing := set(KEYS) - set(file.schema_arrow.names):
                raise TraceError(f"{path}: no column {', '.join(sorted(missing))}; a trace of headway has {KEYS}")
            numbers = count(1)
            for batch in file.iter_batches(batch_size=_BATCH):
                columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
                for row in zip(*columns.values(), strict=True):
                    yield parsed(path, next(numbers), dict(zip(columns, row, strict=True)), _arrival)
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path}: not a whole Parquet file: {error}") from error


def _lines(path: Path) -> Iterator[Arrival]:
    return (parsed(path, number, row, _arrival) for number, row in json_lines(path))


def _arrival(row: dict[str, Any]) -> Arrival:
    block = int(row.get("prefix_block") or PREFIX_BLOCK)
    prefix = tuple(map(int, row.get("prefix") or ()))
    return Arrival(
        float(row["at"]),
        lengths=Lengths(int(row["prompt_tokens"]), int(row["output_tokens"]), prefix, block),
        tenant=row.get("tenant") or "default",
        max_tokens=row.get("max_tokens"),
        deadline_s=row.get("deadline_s"),
        session=row.get("session"),
    )
