"""The access log: one JSON line for each request, written by a thread of its own.

Nothing here holds text of a prompt or of an answer, or a key. What the disk does not take in time is dropped and
counted. A line is appended whole, so that several processes may share a file.
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from controller.types import DecisionRecord
from gateway.metrics import Naming
from gateway.trail import Trail

__all__ = ["AccessLog", "entry"]

_MOST_PENDING = 65_536
"""Lines that may wait to be written."""
_EVERY_S = 0.25
_STDOUT = 1
_log = logging.getLogger("headway.access_log")


class AccessLog:
    """A :class:`gateway.trail.Sink`. ``path`` is ``None`` for standard output; ``epoch`` is added to the driver's times
    to have seconds since 1970. Raises OSError."""

    def __init__(
        self,
        path: Path | None,
        sample: float,
        epoch: float,
        tenants: Naming,
        pending: int = _MOST_PENDING,
    ) -> None:
        self.tenants = tenants
        """May be replaced."""
        self.dropped = 0
        """Lines that were lost."""
        self._path = path
        self._sample = sample
        self._epoch = epoch
        self._bound = pending
        self._pending: deque[dict[str, Any]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._reopen = False
        self._failing = False
        self._file = _opened(path)
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def take(self, trail: Trail) -> None:
        """A request has ended."""
        if self._left_out(trail):
            return
        if len(self._pending) >= self._bound:
            self.dropped += 1
            return
        self._pending.append(entry(trail, self.tenants))

    def reopen(self) -> None:
        """The file was moved away: go on in a new one, with what has not been written yet."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for so many seconds at most."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self.dropped += len(self._pending)

    def _left_out(self, trail: Trail) -> bool:
        well = trail.failure is None and 200 <= (trail.status or 0) < 400
        return well and self._sample < 1.0 and zlib.crc32(trail.ticket.encode()) >= self._sample * 2**32

    # The thread

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_EVERY_S)
            self._wake.clear()
            self._write_out()
        self._write_out()
        self._shut()

    def _write_out(self) -> None:
        if self._reopen or self._failing:
            self._reopen = False
            self._shut()
            try:
                self._file = _opened(self._path)
            except OSError as error:
                self._fail(error)
        entries: list[dict[str, Any]] = []
        with suppress(IndexError):
            while True:
                entries.append(self._pending.popleft())
        if not entries:
            return
        try:
            _write(self._file, b"".join([self._line(one) for one in entries]))
            self._failing = False
        except OSError as error:
            self.dropped += len(entries)
            self._fail(error)

    def _line(self, one: dict[str, Any]) -> bytes:
        at = datetime.fromtimestamp(one["time"] + self._epoch, UTC)
        one["time"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE)

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            _log.error("the access log cannot be written: %s; its lines are lost until it can", error)
        self._failing = True

    def _shut(self) -> None:
        if self._path is not None and self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1


def entry(trail: Trail, tenants: Naming) -> dict[str, Any]:
    """A request's line. ``time``, when it ended, is on the driver's clock; what is not known is null."""
    record, tenant = trail.record, trail.tenant
    usage = None if record is None else record.usage
    return {
        "time": trail.ended,
        "request_id": trail.request_id.decode("latin-1"),
        "ticket": trail.ticket,
        "tenant": None if tenant is None else tenants.label_of(tenant),
        "class": None if tenant is None else tenants.class_of(tenant),
        "method": trail.method,
        "path": trail.path.encode("utf-8", "backslashreplace").decode(),
        "status": trail.status,
        "model": None if record is None else record.model.encode("utf-8", "backslashreplace").decode(),
        "pool": None if record is None else record.pool,
        "worker": None if record is None else record.worker,
        "attempts": 0 if record is None else record.attempts,
        "continued": 0 if record is None else record.continued,
        "queue_ms": None if record is None else _queued(trail, record),
        "ttft_ms": None if record is None else _ms(record.submitted_at, record.first_token_at),
        "duration_ms": _ms(trail.began, trail.ended),
        "input_tokens": None if usage is None else usage.prompt_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
        "bytes_in": trail.received,
        "bytes_out": trail.sent,
        "code": trail.failure,
        "trace_id": trail.trace_id,
    }


def _queued(trail: Trail, record: DecisionRecord) -> float:
    """Before all of its attempts together."""
    waits = [(attempt.queued_at, attempt.at) for attempt in trail.attempts]
    if not waits:
        return round((record.finished_at - record.submitted_at) * 1000, 3)
    waits[0] = (record.submitted_at, waits[0][1])
    return round(sum(max(0.0, end - begin) for begin, end in waits) * 1000, 3)


def _ms(begin: float, end: float | None) -> float | None:
    return None if end is None else round((end - begin) * 1000, 3)


def _opened(path: Path | None) -> int:
    if path is None:
        return _STDOUT
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
