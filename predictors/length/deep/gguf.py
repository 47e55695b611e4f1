"""Reading a GGUF file with numpy alone: its metadata and its tensors, dequantised to float32.

Only what small Llama checkpoints come in is read: little-endian version 2 or 3, tensors in F32, F16, Q8_0, Q4_0 and
Q4_1. The layout is that of the GGUF specification: a header, key-value pairs, tensor descriptions, aligned data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_MAGIC: Final = b"GGUF"
_SCALARS: Final = "BbHhIif?"
"""``struct`` codes of the value types 0 to 7; 8 is a string, 9 an array, 10 to 12 are 64-bit numbers."""
_STRING, _ARRAY = 8, 9
_LONG: Final = {10: "Q", 11: "q", 12: "d"}


class GgufError(ValueError):
    """A file is no GGUF file that can be read here: what is wrong, and what would be right."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How ``block`` numbers of a row are stored in ``size`` bytes."""

    name: str
    block: int
    size: int
    decode: Callable[[Bytes], Floats]
    """From blocks (n, size) of bytes to numbers (n, block)."""


def _half(raw: Bytes) -> Floats:
    values: Floats = np.frombuffer(raw.tobytes(), "<f2").reshape(len(raw), -1).astype(np.float32)
    return values


def _nibbles(raw: Bytes) -> Floats:
    nibbles: Bytes = np.concatenate([raw & 15, raw >> 4], axis=1)
    return nibbles.astype(np.float32)


def _q4_0(raw: Bytes) -> Floats:
    return (_nibbles(raw[:, 2:]) - 8.0) * _half(raw[:, :2])


def _q4_1(raw: Bytes) -> Floats:
    return _nibbles(raw[:, 4:]) * _half(raw[:, :2]) + _half(raw[:, 2:4])


def _q8_0(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw[:, 2:]).view(np.int8).astype(np.float32) * _half(raw[:, :2])


ENCODINGS: Final[Mapping[int, Encoding]] = {
    0: Encoding("F32", 1, 4, lambda raw: np.ascontiguousarray(raw).view("<f4").astype(np.float32)),
    1: Encoding("F16", 1, 2, _half),
    2: Encoding("Q4_0", 32, 18, _q4_0),
    3: Encoding("Q4_1", 32, 20, _q4_1),
    8: Encoding("Q8_0", 32, 34, _q8_0),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in the file: ``shape`` with the fastest axis last, as numpy has it."""

    shape: tuple[int, ...]
    encoding: int
    raw: Bytes

    def rows(self, chosen: slice | NDArray[np.intp] = slice(None)) -> Floats:
        """Some rows (first axis) of a matrix, dequantised; of a vector, all of it."""
        encoding = ENCODINGS[self.encoding]
        width = self.shape[-1]
        raw = self.raw.reshape(-1, width // encoding.block * encoding.size)
        chosen_raw = raw[chosen] if len(self.shape) > 1 else raw
        values = encoding.decode(chosen_raw.reshape(-1, encoding.size))
        return values.reshape(len(chosen_raw), width) if len(self.shape) > 1 else values.reshape(width)


@dataclass(frozen=True, slots=True)
class Gguf:
    """``metadata`` by key (arrays as lists) and ``tensors`` by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def tensor(self, name: str) -> Floats:
        """One tensor in float32.

        Raises:
            GgufError: there is none of that name.
        """
        if name not in self.tensors:
            raise GgufError(f"the file has no tensor {name!r}; it has {', '.join(sorted(self.tensors)[:4])} …")
        return self.tensors[name].rows()


def read_gguf(path: Path) -> Gguf:
    """Read a file; its tensors stay mapped from disk until they are asked for.

    Raises:
        GgufError: it cannot be read, is cut short, or holds an encoding that is not read here.
    """
    try:
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
        return _parse(data)
    except (OSError, ValueError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise GgufError(f"{path} cannot be read as GGUF: {error}") from error


class _Cursor:
    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def take(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        (value,) = struct.unpack("<" + code, self.data[self.at : self.at + size].tobytes())
        self.at += size
        return value

    def string(self) -> str:
        size = self.take("Q")
        if self.at + size > len(self.data):
            raise GgufError("it ends in the middle of a string")
        text = self.data[self.at : self.at + size].tobytes().decode("utf-8")
        self.at += size
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            element, count = self.take("I"), self.take("Q")
            return [self.value(element) for _ in range(count)]
        if kind in _LONG:
            return self.take(_LONG[kind])
        if kind < len(_SCALARS):
            return self.take(_SCALARS[kind])
        raise GgufError(f"a value has the unknown type {kind}")


def _parse(data: Bytes) -> Gguf:
    cursor = _Cursor(data)
    if data[:4].tobytes() != _MAGIC:
        raise GgufError("it does not begin with GGUF")
    cursor.at = 4
    version = cursor.take("I")
    if version not in (2, 3):
        raise GgufError(f"it is of version {version}; 2 and 3 can be read")
    tensors, pairs = cursor.take("Q"), cursor.take("Q")
    metadata = {}
    for _ in range(pairs):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.take("I"))
    described = []
    for _ in range(tensors):
        name = cursor.string()
        axes = [int(cursor.take("Q")) for _ in range(cursor.take("I"))]
        described.append((name, tuple(reversed(axes)), cursor.take("I"), cursor.take("Q")))
    alignment = int(metadata.get("general.alignment", 32))
    start = math.ceil(cursor.at / alignment) * alignment
    found = {}
    for name, shape, kind, offset in described:
        if kind not in ENCODINGS:
            raise GgufError(f"the tensor {name} has encoding {kind}; {sorted(ENCODINGS)} can be read")
        encoding = ENCODINGS[kind]
        size = math.prod(shape) // encoding.block * encoding.size
        raw = data[start + offset : start + offset + size]
        if len(raw) != size:
            raise GgufError(f"the tensor {name} is cut short")
        found[name] = Stored(shape, kind, raw)
    return Gguf(metadata, found)
