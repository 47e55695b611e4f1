"""From a trained Q-network to an artifact that serving loads without torch.

The graph is written node by node with ``onnx.helper``: ``Sub, Div, Clip`` for the normalisation, then one ``Gemm`` and
``Relu`` a layer. It is compared with the torch network before anything is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from rl.network import NormalisedInput

__all__ = ["INPUT", "OUTPUT", "ExportMismatch", "largest_difference", "q_network_to_onnx"]

INPUT = "observation"
OUTPUT = "q_values"
_OPSET = 17
_IR_VERSION = 8
_TOLERANCE = 1e-5

Floats = npt.NDArray[np.float32]


class ExportMismatch(RuntimeError):
    """The exported graph does not compute what the network computes."""


def q_network_to_onnx(network: QNetwork, samples: Floats) -> bytes:
    """The network as ONNX: ``observation`` (n, features) to ``q_values`` (n, actions), float32.

    ``samples`` (n, features) are observations on which graph and network must agree to 1e-5 (relative to the largest
    value, absolute below 1); raises ``ExportMismatch`` otherwise.
    """
    graph = _graph(network)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    difference = largest_difference(network, content, samples)
    if not difference <= _TOLERANCE:
        raise ExportMismatch(f"the exported graph is off by {difference:.2g} (allowed {_TOLERANCE:.0e})")
    return content


def largest_difference(network: QNetwork, content: bytes, samples: Floats) -> float:
    """The largest difference between graph and network over ``samples``, relative to max(1, largest value)."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ours = np.asarray(session.run([OUTPUT], {INPUT: samples.astype(np.float32)})[0])
    with torch.no_grad():
        theirs = network(torch.as_tensor(samples, dtype=torch.float32)).numpy()
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))


def _graph(network: QNetwork) -> Any:
    extractor = network.features_extractor
    if not isinstance(extractor, NormalisedInput):
        raise TypeError(f"expected a network with NormalisedInput in front, got {type(extractor).__name__}")
    weights = {"mean": extractor.mean, "scale": extractor.scale}
    limits = {"low": torch.tensor(-extractor.clip), "high": torch.tensor(extractor.clip)}
    nodes = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["x0"]),
    ]
    nodes += _layers(network.q_net, weights)
    values = [numpy_helper.from_array(_array(value), name) for name, value in (weights | limits).items()]
    width, actions = extractor.features_dim, int(network.action_space.n)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", width])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", actions])]
    return helper.make_graph(nodes, "best_effort", inputs, outputs, initializer=values)


def _layers(layers: nn.Sequential, weights: dict[str, torch.Tensor]) -> list[Any]:
    """One node a layer, the last of them giving ``OUTPUT``; puts the layers' parameters into ``weights``."""
    nodes = []
    for i, layer in enumerate(layers):
        result = OUTPUT if i == len(layers) - 1 else f"x{i + 1}"
        if isinstance(layer, nn.Linear):
            weights[f"w{i}"], weights[f"b{i}"] = layer.weight, layer.bias
            nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [result], transB=1))
        elif isinstance(layer, nn.ReLU):
            nodes.append(helper.make_node("Relu", [f"x{i}"], [result]))
        else:
            raise TypeError(f"cannot export a layer of type {type(layer).__name__}")
    return nodes


def _array(tensor: torch.Tensor) -> Floats:
    return tensor.detach().cpu().numpy().astype(np.float32)
