"""The weights in an ONNX file, where the graph is what ``rl/export.py`` writes: a normalisation and dense layers.

ONNX is protocol buffers (https://onnx.ai/onnx/repo-docs/IR.html, ``onnx.proto``): fields of a number and a wire type,
of which a graph of this kind needs few. Whatever else a file may hold gives ``None``, and onnxruntime runs it.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layers", "read"]

Floats = NDArray[np.float32]
Message = Mapping[int, Sequence[Any]]
"""A message's fields by number: integers, or bytes."""

_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error)
"""What reading raises where a field is missing, or is of another kind than it should be."""
_FLOAT: Final = 1
"""``TensorProto.DataType.FLOAT``."""


@dataclass(frozen=True, slots=True)
class Layers:
    """``(x − mean) / scale`` clipped to ``low`` … ``high``, then layers ``x @ weights + bias``, ReLU between them."""

    mean: Floats
    scale: Floats
    low: float
    high: float
    weights: tuple[Floats, ...]
    """Each (in, out)."""
    biases: tuple[Floats, ...]
    """Each (out,)."""


def read(model: bytes, features: int) -> Layers | None:
    """What the file holds; ``None`` if it is anything but such a network of so many inputs."""
    try:
        (graph,) = _message(model)[7]
        return _layers(_message(graph), features)
    except _UNREADABLE:
        return None


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    inputs: Sequence[str]
    output: str
    attributes: Mapping[str, float]


def _layers(graph: Message, features: int) -> Layers | None:
    tensors = dict(_tensor(_message(raw)) for raw in graph[5])
    nodes = [_node(_message(raw)) for raw in graph[1]]
    value = _text(_message(graph[11][0])[1][0])
    for node in nodes:  # one chain, in order
        if node.inputs[0] != value:
            return None
        value = node.output
    if value != _text(_message(graph[12][0])[1][0]) or len(graph[11]) != 1 or len(graph[12]) != 1:
        return None
    mean, scale = np.zeros(features, np.float32), np.ones(features, np.float32)
    low, high = -math.inf, math.inf
    if [node.kind for node in nodes[:3]] == ["Sub", "Div", "Clip"]:
        mean, scale = (tensors[node.inputs[1]] for node in nodes[:2])
        low, high = (float(tensors[name].reshape(())) for name in nodes[2].inputs[1:])
        nodes = nodes[3:]
    if [node.kind for node in nodes] != ["Gemm", *["Relu", "Gemm"] * (len(nodes) // 2)]:
        return None
    dense = [_dense(node, tensors) for node in nodes[::2]]
    weights, biases = tuple(weight for weight, _ in dense), tuple(bias for _, bias in dense)
    if not _fit(features, mean, scale, weights, biases):
        return None
    return Layers(mean, scale, low, high, weights, biases)


def _fit(features: int, mean: Floats, scale: Floats, weights: Sequence[Floats], biases: Sequence[Floats]) -> bool:
    sizes = [features, *(bias.size for bias in biases)]
    shapes = [weight.shape for weight in weights] == list(pairwise(sizes))
    return shapes and mean.shape == scale.shape == (features,) and all(bias.ndim == 1 for bias in biases)


def _dense(node: _Node, tensors: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0.0}
    if any(node.attributes.get(name, value) != value for name, value in plain.items()):
        raise ValueError("a Gemm that is no dense layer")
    _, weight, bias = node.inputs
    transposed = node.attributes.get("transB", 0.0) == 1.0
    return np.ascontiguousarray(tensors[weight].T if transposed else tensors[weight]), tensors[bias]


def _node(raw: Message) -> _Node:
    (output,) = raw[2]
    attributes = dict(_attribute(_message(each)) for each in raw[5])
    return _Node(_text(raw[4][0]), [_text(each) for each in raw[1]], _text(output), attributes)


def _attribute(raw: Message) -> tuple[str, float]:
    """Its name and its number: an integer, or a float, which lies there as the integer of the same bits."""
    if raw[3]:
        return _text(raw[1][0]), float(raw[3][0])
    (number,) = struct.unpack("<f", struct.pack("<I", raw[2][0]))
    return _text(raw[1][0]), number


def _tensor(raw: Message) -> tuple[str, Floats]:
    if raw[2] != [_FLOAT] or len(raw[9]) != 1:
        raise ValueError("a tensor that is not raw float32")
    values = np.frombuffer(raw[9][0], "<f4").astype(np.float32)
    return _text(raw[8][0]), values.reshape(_integers(raw[1]))


def _integers(field: Sequence[Any]) -> list[int]:
    """A repeated integer: one by one, or packed."""
    found: list[int] = []
    for each in field:
        if isinstance(each, int):
            found.append(each)
        else:
            at = 0
            while at < len(each):
                number, at = _varint(each, at)
                found.append(number)
    return found


def _text(raw: bytes) -> str:
    return raw.decode()


def _message(raw: bytes) -> Message:
    fields: defaultdict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        value: int | bytes
        if key & 7 == 0:
            value, at = _varint(raw, at)
        elif key & 7 == 2:
            size, at = _varint(raw, at)
            value, at = raw[at : at + size], at + size
        elif key & 7 == 5:
            value, at = int.from_bytes(raw[at : at + 4], "little"), at + 4
        elif key & 7 == 1:
            value, at = int.from_bytes(raw[at : at + 8], "little"), at + 8
        else:
            raise ValueError(f"wire type {key & 7}")
        fields[key >> 3].append(value)
    if at != len(raw):
        raise ValueError("cut short")
    return fields


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
