from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import QNetwork

from rl.export import INPUT, OUTPUT, ExportMismatch, largest_difference, q_network_to_onnx
from rl.network import NormalisedInput

SPACE = spaces.Box(-np.inf, np.inf, (7,), np.float32)


def _network(seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    mean, scale = rng.normal(0, 3, 7).astype(np.float32), rng.uniform(0.5, 4, 7).astype(np.float32)
    return QNetwork(SPACE, spaces.Discrete(3), NormalisedInput(SPACE, mean, scale), 7, [32, 16])


def _samples(seed: int, rows: int = 500) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 20, (rows, 7)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_the_graph_computes_what_the_network_computes(seed: int) -> None:
    network = _network(seed)
    content = q_network_to_onnx(network, _samples(seed))
    assert largest_difference(network, content, _samples(seed + 100)) <= 1e-5


def test_normalisation_is_inside_the_graph() -> None:
    network = _network()
    session = onnxruntime.InferenceSession(q_network_to_onnx(network, _samples(1)))
    front = network.features_extractor
    assert isinstance(front, NormalisedInput)
    mean, scale = front.mean.numpy(), front.scale.numpy()
    far, further = (mean + 50 * scale)[None, :], (mean + 90 * scale)[None, :]
    values = [session.run([OUTPUT], {INPUT: x.astype(np.float32)})[0] for x in (far, further)]
    assert np.array_equal(*values)  # both lie beyond the clip


def test_any_number_of_rows() -> None:
    session = onnxruntime.InferenceSession(q_network_to_onnx(_network(), _samples(1)))
    assert [session.run([OUTPUT], {INPUT: _samples(2, n)})[0].shape for n in (1, 17)] == [(1, 3), (17, 3)]


def test_a_mismatch_is_not_exported() -> None:
    with pytest.raises(ExportMismatch, match="off by nan"):
        q_network_to_onnx(_network(), np.full((1, 7), np.nan, np.float32))


def test_a_network_without_normalisation_is_refused() -> None:
    network = QNetwork(SPACE, spaces.Discrete(3), FlattenExtractor(SPACE), 7, [8])
    with pytest.raises(TypeError, match="NormalisedInput"):
        q_network_to_onnx(network, _samples(1))
