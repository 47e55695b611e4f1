"""How reports, grants and what else the processes of one machine tell each other look on a socket and in a store.

A frame is four bytes of length (big-endian) and a JSON array ``[kind, message]``; every message is checked when it is
read.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from controller.leases import Grant, Report
from controller.types import WorkerName

__all__ = ["Answer", "Ask", "Gone", "Hello", "Message", "Tell", "WireError", "decode", "encode", "frame", "read"]

_MOST = 1 << 26
"""Bytes of a frame."""
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """What came is no message."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Please answer ``what``, all of you (or, at the hub: ask the others)."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Answer:
    """To an :class:`Ask` of that number."""

    number: int
    bodies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """What one process was told or did, for the others; they hear it in the order in which it was told.

    ``what``: a worker joins (``add``, with its details), is given nothing new (``drain``), serves again (``undrain``),
    is taken out when it is idle (``leave``, within ``grace_s``) or at once (``remove``); or ``reload``, of no worker.
    """

    what: str
    worker: WorkerName
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """The process ends, and has nothing under way any more."""

    member: str


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a process: it has started."""

    member: str


Message = Hello | Report | Grant | Ask | Answer | Tell | Gone

_ADAPTERS: Mapping[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Hello, Report, Grant, Ask, Answer, Tell, Gone)
}


def encode(message: Message) -> bytes:
    """As JSON."""
    return orjson.dumps([type(message).__name__, message])


def decode(data: bytes) -> Message:
    """Raises WireError."""
    try:
        kind, fields = orjson.loads(data)
        found: Message = _ADAPTERS[kind].validate_python(fields)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise WireError(f"not a message: {data[:200]!r}") from error
    return found


def frame(message: Message) -> bytes:
    """With its length before it."""
    data = encode(message)
    return _LENGTH.pack(len(data)) + data


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; ``None`` where the other side has ended. Raises WireError."""
    try:
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if size > _MOST:
            raise WireError(f"a message of {size} bytes")
        return decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
