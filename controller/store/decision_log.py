"""Decision records as Parquet files, written beside the requests and never in their way.

``write`` puts a record into a bounded queue and returns; a thread of its own does the rest, in slices, so that it never
keeps the interpreter's lock for long. A full queue drops the record and counts it. Files are closed at a size or an
age, get their final name in one rename once they are whole, and the oldest are deleted to keep the folder under its
cap. A crash loses the file that was open, no more.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from controller.store.decision_columns import ENCODED, MEMORY, SCHEMA, SEARCHED, Row, batch
from controller.store.inbox import Inbox
from controller.types import DecisionRecord

__all__ = ["RecordWriter"]

_WHOLE = "decisions-*.parquet"
_PARTIAL = "decisions-*.partial"
_SLICE: Final = 512
"""Rows made into columns at once; the thread is woken once there are so many. Half as many take 1 µs more each; with
more, single calls into Arrow, which nobody can interrupt, would come near a millisecond."""
_PROMPT_BYTES: Final = 8_000_000
"""A row group is written at the latest once it holds so many bytes of prompts."""


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
        rows_per_group: int = 4096,
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
        self._inbox: Inbox[Row] = Inbox(queue_size)
        self._written = self._refused = self._overflowed = 0
        self._error: str | None = None
        _warm_up()
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
        if self._inbox.put((record, prompt if self.prompt_text else None)):
            return True
        self._overflowed += 1
        return False

    def close(self) -> None:
        """Write what is queued, close the file, end the thread. May be called again."""
        self._inbox.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        for sequence in itertools.count(1):
            self._make_room()
            if not self._inbox.wait(1):
                return
            try:
                file = _OpenFile(self._folder, self._schema, self._clock(), sequence, self._rows_per_group)
            except (OSError, pa.ArrowException) as error:
                self._refuse(error, len(self._inbox.take(_SLICE, 0.0)))
            else:
                self._fill(file)

    def _fill(self, file: _OpenFile) -> None:
        """Write records into this file until it is large or old enough, or nothing more comes."""
        until = time.monotonic() + self._file_seconds
        taken, refused = 0, self._refused
        try:
            full = False
            while not full:
                rows = self._inbox.take(min(_SLICE, file.room), until)
                taken += len(rows)
                for columns in self._columns(rows):
                    file.append(columns)
                full = self._inbox.ended or time.monotonic() >= until or file.size >= self._file_bytes
            file.finish()
            self._written += taken - (self._refused - refused)
        except (OSError, pa.ArrowException) as error:
            self._refuse(error, taken - (self._refused - refused))
            file.discard()

    def _columns(self, rows: Sequence[Row]) -> Iterator[pa.RecordBatch]:
        """The rows as columns, without those that hold a value which no column takes."""
        if not rows:
            return
        try:
            columns = batch(rows)
        except Exception as error:  # whatever a record holds, the thread goes on with the others
            if len(rows) == 1:
                self._refuse(error, 1)
            else:
                half = len(rows) // 2
                yield from self._columns(rows[:half])
                yield from self._columns(rows[half:])
        else:
            yield columns

    def _refuse(self, error: Exception, records: int) -> None:
        self._error = f"{type(error).__name__}: {error}"
        self._refused += records

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

    def __init__(self, folder: Path, schema: pa.Schema, now: float, sequence: int, rows_per_group: int) -> None:
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = folder / f"decisions-{stamp}-{os.getpid()}-{sequence}.parquet"
        self._partial = self._path.with_suffix(".partial")
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._group: list[pa.RecordBatch] = []
        self._group_rows = self._prompt_bytes = self._rows = 0
        self._sink = self._partial.open("xb")
        self._writer = _writer(self._sink, schema)

    @property
    def size(self) -> int:
        """Bytes on disk so far."""
        return self._sink.tell()

    @property
    def room(self) -> int:
        """Rows that the row group at hand still takes; at least 1."""
        return self._rows_per_group - self._group_rows

    def append(self, columns: pa.RecordBatch) -> None:
        """Add rows, at most ``room`` of them."""
        self._group.append(columns)
        self._group_rows += columns.num_rows
        self._prompt_bytes += columns.column("prompt").nbytes
        if self._group_rows >= self._rows_per_group or self._prompt_bytes >= _PROMPT_BYTES:
            self._flush()

    def finish(self) -> None:
        """Close the file and give it its name, in one rename. A file without rows is let go."""
        if self._group:
            self._flush()
        if not self._rows:
            self.discard()
            return
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

    def _flush(self) -> None:
        """Write a row group; outside of the interpreter's lock."""
        table = pa.Table.from_batches(self._group)
        self._writer.write_table(table.replace_schema_metadata(self._schema.metadata), row_group_size=table.num_rows)
        self._rows += table.num_rows
        self._group.clear()
        self._group_rows = self._prompt_bytes = 0


def _writer(sink: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=list(ENCODED),
        write_statistics=list(SEARCHED),
        memory_pool=MEMORY,
    )


def _warm_up() -> None:
    """Let Arrow load what it loads on first use, before there are requests to hold up."""
    with _writer(io.BytesIO(), SCHEMA) as writer:
        writer.write_table(pa.Table.from_batches([batch([])]))
