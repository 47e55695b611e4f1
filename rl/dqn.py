"""Deep Q-learning with the double estimator, on stable-baselines3's DQN.

stable-baselines3 ships the vanilla target ``r + γ max_a Q'(s', a)``, which overestimates: the same noisy network both
picks the action and judges it. Double DQN (van Hasselt, Guez, Silver 2016, arXiv 1509.06461, eq. 4) lets the online
network pick and the target network judge: ``r + γ Q'(s', argmax_a Q(s', a))``. Everything else is the library's.
"""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor
from torch.nn import functional

__all__ = ["DoubleDQN", "double_q_targets"]


def double_q_targets(
    rewards: Tensor, dones: Tensor, discounts: Tensor | float, next_online: Tensor, next_target: Tensor
) -> Tensor:
    """The double estimator's targets, shape (n, 1).

    ``rewards`` and ``dones`` are (n, 1), ``next_online`` and ``next_target`` the two networks' values of the next
    observation, (n, actions). ``discounts`` is γ to the power of the steps that ``rewards`` already sums.
    """
    chosen = next_online.argmax(dim=1, keepdim=True)
    return rewards + (1.0 - dones) * discounts * next_target.gather(1, chosen)


class DoubleDQN(DQN):
    """DQN whose online network picks the next action and whose target network values it."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Sample ``gradient_steps`` batches and take a step of Huber loss on each; none while nothing is stored."""
        assert self.replay_buffer is not None
        if not self.replay_buffer.size():
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = [self._descend(batch_size) for _ in range(gradient_steps)]
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(np.mean(losses)))

    def targets(self, batch: ReplayBufferSamples) -> Tensor:
        """What the network's values of the batch's actions are pulled towards, shape (n, 1)."""
        discounts = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            online, target = self.q_net(batch.next_observations), self.q_net_target(batch.next_observations)
            return double_q_targets(batch.rewards, batch.dones, discounts, online, target)

    def _descend(self, batch_size: int) -> float:
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        current = self.q_net(batch.observations).gather(1, batch.actions.long())
        loss = functional.smooth_l1_loss(current, self.targets(batch))
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return float(loss.item())
