"""The parts of the Q-network that the library does not have: an input normalisation that belongs to the network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

__all__ = ["NormalisedInput"]


class NormalisedInput(BaseFeaturesExtractor):
    """``(x − mean) / scale``, clipped to ±``clip``, with constants that are saved and exported with the weights."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        mean: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        clip: float = 5.0,
    ) -> None:
        super().__init__(observation_space, features_dim=int(np.prod(observation_space.shape)))
        self.clip = clip
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Shape (n, features) in, the same out."""
        return ((observations - self.mean) / self.scale).clamp(-self.clip, self.clip)
