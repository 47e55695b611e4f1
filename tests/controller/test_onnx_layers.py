from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.observation import Codec
from controller.onnx_layers import read
from controller.store import ArtifactStore, shipped_models
from tests.controller.policies import linear

CODEC = Codec(3)


def shipped() -> bytes:
    models = shipped_models()
    assert models is not None
    return (ArtifactStore(models, None).resolve("policy/best-effort") / "policy.onnx").read_bytes()


def test_the_shipped_policy_is_read() -> None:
    layers = read(shipped(), CODEC.size)
    assert layers is not None
    assert [weight.shape for weight in layers.weights] == [(20, 64), (64, 64), (64, 3)]
    assert [bias.shape for bias in layers.biases] == [(64,), (64,), (3,)]
    assert layers.mean.shape == layers.scale.shape == (20,)
    assert (layers.low, layers.high) == (-5.0, 5.0)
    assert (layers.scale > 0).all()


def test_a_single_layer_needs_no_normalisation() -> None:
    weights = np.arange(3 * CODEC.size, dtype=np.float32).reshape(3, CODEC.size)
    layers = read(linear(CODEC, weights.tolist(), [1.0, 2.0, 3.0]), CODEC.size)
    assert layers is not None
    assert np.array_equal(layers.weights[0], weights.T)
    assert layers.biases[0].tolist() == [1.0, 2.0, 3.0]
    assert not layers.mean.any()
    assert (layers.scale == 1.0).all()
    assert (layers.low, layers.high) == (-np.inf, np.inf)


def test_a_network_of_other_inputs_is_not_read() -> None:
    assert read(shipped(), CODEC.size + 1) is None


def _changed(change: Any) -> bytes:
    onnx = pytest.importorskip("onnx", reason="changing an ONNX file needs the extra 'train'")
    model = onnx.load_from_string(shipped())
    change(model.graph)
    return bytes(model.SerializeToString())


def _tanh(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = "Tanh"


def _scaled(graph: Any) -> None:
    attribute = next(node for node in graph.node if node.op_type == "Gemm").attribute.add()
    attribute.name, attribute.f, attribute.type = "alpha", 2.0, 1


def _skipping(graph: Any) -> None:
    graph.node[-1].input[0] = "x0"


def _two_outputs(graph: Any) -> None:
    graph.output.add().name = "x0"


def _doubles(graph: Any) -> None:
    graph.initializer[0].data_type = 11


def _more(graph: Any) -> None:
    graph.node.add(op_type="Relu", input=["q_values"], output=["more"])
    graph.output[0].name = "more"


@pytest.mark.parametrize("change", [_tanh, _scaled, _skipping, _two_outputs, _doubles, _more])
def test_any_other_graph_is_left_to_onnxruntime(change: Any) -> None:
    assert read(_changed(lambda graph: None), CODEC.size) is not None
    assert read(_changed(change), CODEC.size) is None


@given(st.data())
def test_damage_is_never_an_error(data: st.DataObject) -> None:
    content = bytearray(shipped())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1) | st.integers(0, 400))] = data.draw(st.integers(0, 255))
    read(bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]), CODEC.size)
