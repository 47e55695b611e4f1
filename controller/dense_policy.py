"""A policy of dense layers in one compiled call: clip, range check, network, and the best action that is allowed.

onnxruntime spends some 80 µs on a network of five thousand weights, nearly all of it on the way to the first
multiplication, where this takes five. Without numba there is no such thing, and onnxruntime runs the network.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controller.observation import Codec, Observation
from controller.onnx_layers import Layers
from predictors.compiled import compiled, lined

__all__ = ["OUTSIDE", "DensePolicy"]

Floats = NDArray[np.float32]

_NOT_FINITE: Final = -1
OUTSIDE: Final = -2
"""What :meth:`DensePolicy.decide` gives in place of an action where a feature lies outside the range of training."""


class DensePolicy:
    """``low`` and ``high`` (features,) bound what may be decided. It keeps buffers: one thread at a time."""

    def __init__(self, layers: Layers, codec: Codec, low: Observation, high: Observation) -> None:
        self._asked = lined(np.zeros(codec.size + codec.slots))
        self._pack = partial(struct.Struct(f"{self._asked.size}d").pack_into, self._asked.data)
        self._answer = lined(np.zeros(codec.size + codec.slots, np.float32))
        self._size = codec.size
        widths = [codec.size, *(bias.size for bias in layers.biases)]
        self._widths = np.array(widths, np.int64)
        self._scratch = lined(np.zeros(2 * max(widths), np.float32))
        bounds = [codec.low, codec.high, low, high, layers.mean, layers.scale]
        weights = [part.ravel() for both in zip(layers.biases, layers.weights, strict=True) for part in both]
        clip = np.array([layers.low, layers.high], np.float32)
        self._parameters = lined(np.concatenate([*bounds, clip, *weights], dtype=np.float32))
        self._unused = [codec.unused(pools) for pools in range(codec.slots + 1)]
        self.decide([0.0] * codec.size, [True] * codec.slots, codec.slots)

    def decide(
        self, values: Sequence[float], allowed: Sequence[bool], pools: int
    ) -> tuple[int, list[float], list[float]]:
        """The action, the observation as the network saw it, and the value of every action.

        ``values`` (features,) are as :meth:`Codec.values` gives them, ``allowed`` (slots,) says which actions may be
        taken, ``pools`` how many slots are in use. In place of an action :data:`OUTSIDE`, or another negative number
        if a value of an action is not finite.
        """
        self._pack(0, *values, *allowed)
        unused = self._unused[pools]
        action = _decide(
            self._asked, self._parameters, self._widths, self._scratch, self._answer, unused.start, unused.stop
        )
        answer = self._answer.tolist()
        return action, answer[: self._size], answer[self._size :]


@compiled
def _decide(
    asked: NDArray[np.float64],
    parameters: Floats,
    widths: NDArray[np.int64],
    scratch: Floats,
    answer: Floats,
    unused_from: int,
    unused_to: int,
) -> int:
    """``asked`` is values and permissions, ``answer`` observation and values of the actions. The features
    ``unused_from`` … ``unused_to`` may lie anywhere."""
    n, layers = widths[0], widths.shape[0] - 1
    outside = False
    for i in range(n):
        value = asked[i]
        if value < parameters[i]:
            value = parameters[i]
        elif value > parameters[n + i]:
            value = parameters[n + i]
        seen = np.float32(value)
        answer[i] = seen
        beyond = seen < parameters[2 * n + i] or seen > parameters[3 * n + i]
        outside |= beyond and not unused_from <= i < unused_to
        scaled = (seen - parameters[4 * n + i]) / parameters[5 * n + i]
        scratch[i] = min(max(scaled, parameters[6 * n]), parameters[6 * n + 1])
    if outside:
        return OUTSIDE
    at, here, there = 6 * n + 2, 0, scratch.shape[0] // 2
    for layer in range(layers):
        inputs, outputs = widths[layer], widths[layer + 1]
        into = scratch[there : there + outputs]
        into[:] = parameters[at : at + outputs]
        at += outputs
        for i in range(inputs):
            value32 = scratch[here + i]
            row = parameters[at : at + outputs]
            for j in range(outputs):
                into[j] += value32 * row[j]
            at += outputs
        if layer < layers - 1:
            for j in range(outputs):
                into[j] = max(into[j], np.float32(0.0))
        here, there = there, here
    action, best = 0, -math.inf
    finite = True
    for j in range(widths[layers]):
        score = scratch[here + j]
        answer[n + j] = score
        finite &= math.isfinite(score)
        if asked[n + j] != 0.0 and score > best:
            action, best = j, score
    return action if finite else _NOT_FINITE
