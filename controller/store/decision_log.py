"""Decision records as Parquet files, written beside the requests and never in their way.

``write`` puts a record into a bounded queue and returns; a thread of its own does the rest. A full queue drops the
record and counts it. Files are closed at a size or an age, get their final name in one rename once they are whole, and
the oldest are deleted to keep the folder under its cap. A crash loses the file that was open, no more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from controller.types import Alternative, Choice, DecisionRecord, Scores

T = TypeVar("T")

_ALTERNATIVE = pa.struct(
    [("name", pa.string()), ("score", pa.float64()), ("eligible", pa.bool_()), ("why", pa.string())]
)
_CHOICE = pa.struct(
    [
        ("stage", pa.string()),
        ("by", pa.string()),
        ("chosen", pa.string()),
        ("alternatives", pa.list_(_ALTERNATIVE)),
        ("propensity", pa.float64()),
        ("fallback", pa.string()),
        ("features", pa.list_(pa.float64())),
        ("artifact", pa.string()),
    ]
)
_SCORES = pa.struct(
    [
        ("length_rank", pa.float64()),
        ("output_tokens", pa.float64()),
        ("quality", pa.map_(pa.string(), pa.float64())),
    ]
)
_USAGE = pa.struct([("prompt_tokens", pa.int64()), ("output_tokens", pa.int64()), ("cached_tokens", pa.int64())])
SCHEMA = pa.schema(
    [
        ("ticket", pa.string()),
        ("tenant", pa.string()),
        ("model", pa.string()),
        ("submitted_at", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("max_tokens", pa.int64()),
        ("scores", _SCORES),
        ("choices", pa.list_(_CHOICE)),
        ("pool", pa.string()),
        ("worker", pa.string()),
        ("attempts", pa.int64()),
        ("dispatched_at", pa.float64()),
        ("first_token_at", pa.float64()),
        ("finished_at", pa.float64()),
        ("result", pa.string()),
        ("code", pa.string()),
        ("usage", _USAGE),
        ("continued", pa.int64()),
        ("prompt", pa.string()),
    ]
)
"""One row a request, the fields of :class:`controller.types.DecisionRecord`; ``prompt`` is null unless asked for."""

_PLAIN = tuple(name for name in SCHEMA.names if name not in {"scores", "choices", "usage", "result", "prompt"})

Row = tuple[DecisionRecord, str | None]
"""A record and its prompt, where that is kept."""

_WHOLE = "decisions-*.parquet"
_PARTIAL = "decisions-*.partial"


class RecordWriter:
    """Writes records into a folder until it is closed. ``write`` and ``close`` are for one thread.

    ``max_bytes`` bounds the folder's files together and must be at least twice ``file_bytes``, which bounds one file
    to within a row group; ``file_seconds`` bounds its age. ``epoch`` is the time of day (seconds since 1970) at which
    the records' clock read 0; it goes into each file's metadata as ``headway.epoch``. ``clock`` reads the time of day,
    for file names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 1_000_000_000,
        file_bytes: int = 64_000_000,
        file_seconds: float = 300.0,
        prompt_text: bool = False,
        epoch: float = 0.0,
        queue_size: int = 8192,
        rows_per_group: int = 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < 2 * file_bytes:
            raise ValueError(f"max_bytes ({max_bytes}) must be at least twice file_bytes ({file_bytes})")
        folder.mkdir(parents=True, exist_ok=True)
        self.prompt_text = prompt_text
        self._folder = folder
        self._max_bytes, self._file_bytes, self._file_seconds = max_bytes, file_bytes, file_seconds
        self._rows_per_group = rows_per_group
        self._schema = SCHEMA.with_metadata({"headway.epoch": repr(epoch)})
        self._clock = clock
        self._queue: queue.Queue[Row | None] = queue.Queue(queue_size)
        self._written = self._refused = self._overflowed = 0
        self._error: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="headway-records", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Records in files that are whole."""
        return self._written

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full, the writer was closed, or the disk refused them."""
        return self._overflowed + self._refused

    @property
    def error(self) -> str | None:
        """What the disk said last, when it refused."""
        return self._error

    def write(self, record: DecisionRecord, prompt: str | None = None) -> bool:
        """Queue a record; false, and counted, if it was dropped. The prompt is kept only if ``prompt_text`` is on."""
        if not self._closed:
            try:
                self._queue.put_nowait((record, prompt if self.prompt_text else None))
            except queue.Full:
                pass
            else:
                return True
        self._overflowed += 1
        return False

    def close(self) -> None:
        """Write what is queued, close the file, end the thread. May be called again."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        for sequence in itertools.count(1):
            self._make_room()
            first = self._queue.get()
            if first is None or self._write_file(first, sequence):
                return

    def _write_file(self, first: Row, sequence: int) -> bool:
        """Fill one file, beginning with this row; true once the writer is to end."""
        until = time.monotonic() + self._file_seconds
        rows, taken, ended = [first], 0, False
        file: _OpenFile | None = None
        try:
            file = _OpenFile(self._folder, self._schema, self._clock(), sequence)
            full = False
            while not full:
                ended = self._collect(rows, until)
                file.append(rows)
                taken += len(rows)
                rows.clear()
                full = ended or time.monotonic() >= until or file.size >= self._file_bytes
            file.finish()
            self._written += taken
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            # A value that its column cannot hold is no ArrowException, and must not end this thread either.
            self._error = f"{type(error).__name__}: {error}"
            self._refused += taken + len(rows)
            if file is not None:
                file.discard()
        return ended

    def _collect(self, rows: list[Row], until: float) -> bool:
        """Add rows until there are enough for a row group or time is up; true once the writer is to end."""
        while len(rows) < self._rows_per_group:
            try:
                row = self._queue.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return False
            if row is None:
                return True
            rows.append(row)
        return False

    def _make_room(self) -> None:
        """Delete the oldest files until one more fits under the cap, and what a crash left half-written."""
        try:
            self._delete_abandoned()
            files = sorted((path.name, path.stat().st_size, path) for path in self._folder.glob(_WHOLE))
            excess = sum(size for _, size, _ in files) - (self._max_bytes - self._file_bytes)
            for _, size, path in files:
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= size
        except OSError as error:
            self._error = f"{type(error).__name__}: {error}"

    def _delete_abandoned(self) -> None:
        # Another gateway may write into the same folder; its open file is younger than this.
        oldest = self._clock() - 2 * self._file_seconds - 60.0
        for path in self._folder.glob(_PARTIAL):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


class _OpenFile:
    """A Parquet file that has no final name yet."""

    def __init__(self, folder: Path, schema: pa.Schema, now: float, sequence: int) -> None:
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = folder / f"decisions-{stamp}-{os.getpid()}-{sequence}.parquet"
        self._partial = self._path.with_suffix(".partial")
        self._schema = schema
        self._sink = self._partial.open("xb")
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")

    @property
    def size(self) -> int:
        """Bytes on disk so far."""
        return self._sink.tell()

    def append(self, rows: Sequence[Row]) -> None:
        """Write a row group."""
        if rows:
            self._writer.write_table(_table(rows, self._schema))

    def finish(self) -> None:
        """Close the file and give it its name, in one rename."""
        self._writer.close()
        self._sink.flush()
        os.fsync(self._sink.fileno())
        self._sink.close()
        self._partial.rename(self._path)

    def discard(self) -> None:
        """Let go of the file and of what is in it."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._sink.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """The rows as columns.

    Built column by column: ``pa.Table.from_pylist`` takes several times as long for rows as nested as these, and holds
    the interpreter's lock all the while, which the event loop needs.
    """
    records = [record for record, _ in rows]
    columns = {name: _column(records, name, schema.field(name).type) for name in _PLAIN}
    columns["result"] = pa.array([record.result.value for record in records], pa.string())
    columns["scores"] = _scores([record.scores for record in records])
    columns["choices"] = _nested([record.choices for record in records], _choices)
    columns["usage"] = _struct([record.usage for record in records], _USAGE)
    columns["prompt"] = pa.array([None if text is None else _storable(text) for _, text in rows], pa.string())
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _column(things: Sequence[Any], name: str, type_: pa.DataType) -> pa.Array:
    return pa.array([None if thing is None else getattr(thing, name) for thing in things], type_)


def _struct(things: Sequence[Any], type_: pa.StructType) -> pa.Array:
    """An attribute a field; null where a thing is ``None``."""
    children = [_column(things, field.name, field.type) for field in type_]
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=_missing(things))


def _missing(things: Sequence[Any]) -> pa.Array:
    return pa.array([thing is None for thing in things], pa.bool_())


def _nested(lists: Sequence[Sequence[T]], column: Callable[[list[T]], pa.Array]) -> pa.Array:
    """Lists, from one column of all that is in them."""
    offsets = [0, *itertools.accumulate(map(len, lists))]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column([one for each in lists for one in each]))


def _choices(choices: list[Choice]) -> pa.Array:
    columns = {
        field.name: _column(choices, field.name, field.type)
        for field in _CHOICE
        if field.name not in {"alternatives", "features"}
    }
    columns["alternatives"] = _nested([choice.alternatives for choice in choices], _alternatives)
    columns["features"] = _nested([choice.features for choice in choices], _numbers)
    return pa.StructArray.from_arrays([columns[field.name] for field in _CHOICE], fields=list(_CHOICE))


def _alternatives(alternatives: list[Alternative]) -> pa.Array:
    return _struct(alternatives, _ALTERNATIVE)


def _numbers(numbers: list[float]) -> pa.Array:
    return pa.array(numbers, pa.float64())


def _scores(scores: Sequence[Scores | None]) -> pa.Array:
    qualities = [None if one is None else one.quality for one in scores]
    pairs = [pair for quality in qualities if quality is not None for pair in quality.items()]
    ends = itertools.accumulate(0 if quality is None else len(quality) for quality in qualities)
    # A null in place of an offset makes that map null.
    starts = [None if quality is None else start for quality, start in zip(qualities, (0, *ends), strict=False)]
    offsets = pa.array([*starts, len(pairs)], pa.int32())
    keys, values = pa.array([key for key, _ in pairs], pa.string()), _numbers([value for _, value in pairs])
    columns = {name: _column(scores, name, pa.float64()) for name in ("length_rank", "output_tokens")}
    columns["quality"] = pa.MapArray.from_arrays(offsets, keys, values)
    children = [columns[field.name] for field in _SCORES]
    return pa.StructArray.from_arrays(children, fields=list(_SCORES), mask=_missing(scores))


def _storable(text: str) -> str:
    """Without the lone surrogates that JSON can carry and UTF-8 cannot; the worker refuses such a prompt as well."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
