"""Best-effort policies: the protocol, and the loader of trained ones.

``models/policy/NAME/VERSION`` holds ``policy.onnx``: input (n, features) float32 in raw units, output (n, slots)
float32, the value of each action; the normalisation is inside. Its manifest's ``features`` are the names of a
:class:`~controller.observation.Codec`, and ``settings["ranges"]`` the least and greatest value of each feature seen in
training: ``[[low, high], …]``. A network of dense layers, as training writes it, is run by
:mod:`controller.dense_policy`, any other by onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort

from controller.dense_policy import DensePolicy
from controller.observation import Codec, Mask, Observation
from controller.onnx_layers import Layers, read
from predictors.artifact import Artifact, ArtifactSchema, load, manifest_sha256
from predictors.compiled import AVAILABLE

WEIGHTS = "policy.onnx"
_MARGIN = 0.1
"""How far beyond the range of training, as a share of it, a feature may lie."""
_MAX_SLOTS = 64
_PROBES = 64
_TOLERANCE = 1e-4
"""By which the values of the two ways to run a network may differ, relative to max(1, greatest value)."""


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """The action taken, the value of every action, and the probability with which this one was taken."""

    action: int
    scores: tuple[float, ...]
    propensity: float = 1.0


class PolicyFailed(Exception):
    """The policy gave no usable values for this observation."""


class Policy(Protocol):
    """Chooses one of the allowed actions; may raise :class:`PolicyFailed`."""

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision: ...


class OnnxPolicy:
    """The allowed action of the greatest value, by a network in ONNX, on one thread."""

    def __init__(self, model: bytes, codec: Codec) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base but this
            raise ArtifactSchema(f"{WEIGHTS} is not a model that onnxruntime can run: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._check(codec)

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision:
        scores: tuple[float, ...] = tuple(self.values(observation[None, :])[0].tolist())
        if not all(map(math.isfinite, scores)):
            raise PolicyFailed("not_finite")
        allowed = [score if may else -math.inf for score, may in zip(scores, mask.tolist(), strict=True)]
        return PolicyDecision(allowed.index(max(allowed)), scores)

    def values(self, observations: Observation) -> Observation:
        """The value of each action (n, slots) for observations (n, features)."""
        values: Observation = self._session.run(None, {self._input: observations})[0]
        return values

    def _check(self, codec: Codec) -> None:
        try:
            values = self.values(np.zeros((1, codec.size), np.float32))
        except Exception as error:
            raise ArtifactSchema(f"{WEIGHTS} does not take (1, {codec.size}) float32: {error}") from error
        if values.shape != (1, codec.slots):
            raise ArtifactSchema(f"{WEIGHTS} gives {values.shape}, not (1, {codec.slots}) values")


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy with what is needed to use it rightly."""

    policy: Policy
    codec: Codec
    low: Observation
    """The least value of each feature seen in training, less a margin."""
    high: Observation
    sha256: str
    """Of the artifact's manifest."""
    layers: Layers | None = None
    """The network itself, where :class:`~controller.dense_policy.DensePolicy` can run it."""

    def dense(self) -> DensePolicy | None:
        """The same policy within the same bounds, in one call; ``None`` if only ``policy`` can run it."""
        return None if self.layers is None else DensePolicy(self.layers, self.codec, self.low, self.high)

    def outside(self, observation: Observation, used: Mask) -> str | None:
        """The name of the first feature in use that lies outside the range of training; ``None`` if all lie inside."""
        wrong = ((observation < self.low) | (observation > self.high)) & used
        return self.codec.names[int(wrong.argmax())] if wrong.any() else None


def load_policy(path: Path) -> TrainedPolicy:
    """Verify and load the artifact in this folder.

    Raises:
        ArtifactError: it is missing, tampered with, or of another schema than this version's codec.
    """
    artifact = load(path, kind="policy")
    codec = _codec(artifact.manifest.features)
    low, high = _ranges(artifact, codec)
    model = artifact.read(WEIGHTS)
    policy = OnnxPolicy(model, codec)
    layers = read(model, codec.size) if AVAILABLE else None
    if layers is not None and not _agree(policy, layers, codec):
        layers = None
    return TrainedPolicy(policy, codec, low, high, manifest_sha256(path), layers)


def _agree(policy: OnnxPolicy, layers: Layers, codec: Codec) -> bool:
    """Whether onnxruntime gives the same values for observations from all over the codec's range."""
    if layers.biases[-1].size != codec.slots:
        return False
    observations = np.random.default_rng(0).uniform(codec.low, codec.high, (_PROBES, codec.size)).astype(np.float32)
    theirs = np.concatenate([policy.values(row[None]) for row in observations])  # some take no more than one at a time
    dense = DensePolicy(layers, codec, codec.low, codec.high)
    ours = [dense.decide(row, [True] * codec.slots, codec.slots)[2] for row in observations.tolist()]
    tolerance = _TOLERANCE * max(1.0, float(np.abs(theirs).max()))
    return bool(np.allclose(ours, theirs, rtol=0.0, atol=tolerance, equal_nan=True))


def _codec(features: Sequence[str]) -> Codec:
    for slots in range(1, _MAX_SLOTS + 1):
        codec = Codec(slots)
        if codec.size == len(features) and codec.names == tuple(features):
            return codec
    raise ArtifactSchema("the policy was trained on other observations than this version makes; train it again")


def _ranges(artifact: Artifact, codec: Codec) -> tuple[Observation, Observation]:
    try:
        ranges = np.array(artifact.manifest.settings["ranges"], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactSchema(f"{artifact.manifest.ref}: settings have no readable 'ranges': {error}") from error
    if ranges.shape != (codec.size, 2) or not np.isfinite(ranges).all():
        raise ArtifactSchema(f"{artifact.manifest.ref}: settings' ranges are {ranges.shape}, not ({codec.size}, 2)")
    margin = _MARGIN * (ranges[:, 1] - ranges[:, 0]) + 1e-6
    return ranges[:, 0] - margin, ranges[:, 1] + margin
