from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.dqn import DoubleDQN, double_q_targets


class Corridor(gym.Env[np.ndarray[Any, Any], np.int64]):
    """Five cells in a row; only the right end pays, and only going right ten times in at most twelve steps is good."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._cell = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._cell = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> Any:
        self._cell = min(4, self._cell + 1) if action == 1 else max(0, self._cell - 1)
        return self._observe(), float(self._cell == 4), self._cell == 4, False, {}

    def _observe(self) -> np.ndarray[Any, Any]:
        observation: np.ndarray[Any, Any] = np.zeros(5, np.float32)
        observation[self._cell] = 1.0
        return observation


def test_double_q_target_by_hand() -> None:
    rewards, dones = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    online = torch.tensor([[3.0, 1.0], [0.0, 9.0]])
    target = torch.tensor([[0.5, 8.0], [7.0, 7.0]])
    found = double_q_targets(rewards, dones, 0.5, online, target)
    # The online network picks action 0, the target network says 0.5 of it; the vanilla target would take 8.
    assert torch.allclose(found, torch.tensor([[1.25], [2.0]]))


def test_discounts_of_several_steps_apply_row_by_row() -> None:
    zeros, values = torch.zeros((2, 1)), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = double_q_targets(zeros, zeros, torch.tensor([[0.9], [0.81]]), values, values)
    assert torch.allclose(found, torch.tensor([[0.9], [0.81]]))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_learns_the_corridor(n_steps: int) -> None:
    torch.set_num_threads(1)
    model = DoubleDQN(
        "MlpPolicy",
        Corridor(),
        seed=3,
        device="cpu",
        gamma=0.9,
        n_steps=n_steps,
        learning_rate=5e-3,
        learning_starts=50,
        target_update_interval=50,
        exploration_fraction=0.6,
        policy_kwargs={"net_arch": [16]},
    )
    model.learn(1000)
    with torch.no_grad():
        values = model.q_net(torch.eye(5)).numpy()
    assert (values[:4].argmax(axis=1) == 1).all()
    # The value of the step into the end is 1, discounted by 0.9 a step before it.
    assert values[:4, 1] == pytest.approx([0.9**3, 0.9**2, 0.9, 1.0], abs=0.08)


def test_the_same_seed_learns_the_same_weights() -> None:
    def weights() -> list[torch.Tensor]:
        model = DoubleDQN("MlpPolicy", Corridor(), seed=5, device="cpu", learning_starts=20)
        return list(model.learn(120).q_net.parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))
