"""Policy artifacts for tests: small networks written as ONNX, where the extra ``train`` is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.observation import Codec
from predictors.artifact import write


def linear(codec: Codec, weights: Sequence[Sequence[float]], bias: Sequence[float]) -> bytes:
    """An ONNX graph for ``values = observation @ weightsᵀ + bias``."""
    onnx = pytest.importorskip("onnx", reason="writing an ONNX file needs the extra 'train'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    w = onnx.numpy_helper.from_array(np.array(weights, np.float32), "w")
    b = onnx.numpy_helper.from_array(np.array(bias, np.float32), "b")
    node = helper.make_node("Gemm", ["observation", "w", "b"], ["values"], transB=1)
    graph = helper.make_graph(
        [node],
        "policy",
        [helper.make_tensor_value_info("observation", kind, ["n", codec.size])],
        [helper.make_tensor_value_info("values", kind, ["n", len(bias)])],
        [w, b],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def by_quality(codec: Codec, wait_cost: float = 0.1) -> bytes:
    """A policy that takes the pool of the best quality less ``wait_cost`` times its expected wait."""
    weights = np.zeros((codec.slots, codec.size))
    for slot in range(codec.slots):
        weights[slot, codec.names.index(f"pool{slot}.quality")] = 1.0
        weights[slot, codec.names.index(f"pool{slot}.wait_s")] = -wait_cost
    return linear(codec, weights.tolist(), [0.0] * codec.slots)


def write_policy(path: Path, codec: Codec, model: bytes, **changes: Any) -> Path:
    """Write a policy artifact into ``path``."""
    ranges = [[float(low), float(high)] for low, high in zip(codec.low, codec.high, strict=True)]
    fields: dict[str, Any] = {
        "kind": "policy",
        "name": "test",
        "version": 1,
        "features": codec.names,
        "data": (),
        "metrics": {},
        "files": {"policy.onnx": model},
        "created": "2026-01-01T00:00:00+00:00",
        "settings": {"ranges": ranges},
        **changes,
    }
    write(path, **fields)
    return path
