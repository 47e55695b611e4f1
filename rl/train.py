"""Training the best-effort policy: Double DQN in ``headway/BestEffort-v0``, the best checkpoint by validation.

Episodes of training are randomised around the scenario (:class:`envs.episode.Randomisation`); those of validation are
the scenario itself but for worse predictions, on other seeds and prompts. Evaluation uses seeds and prompts that
neither has seen, and predictions as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from controller.observation import Mask, Observation
from controller.policy import PolicyDecision
from envs.best_effort import BestEffortEnv
from envs.episode import Episode, EpisodeSource
from envs.scenarios import WorkloadKind
from rl.credit import CreditedReplayBuffer
from rl.dqn import DoubleDQN
from rl.network import NormalisedInput
from rl.play import policy_tier
from rl.tune import objective

__all__ = ["Checkpoint", "NetworkPolicy", "TrainArguments", "Trained", "observe", "train", "validation_episodes"]

Floats = npt.NDArray[np.float32]
_VALIDATION_SEEDS = 1_000_000
_LEAST_SCALE = 0.05
"""A feature that hardly varies is not blown up."""


@dataclass(frozen=True, slots=True)
class TrainArguments:
    """Everything that decides a run: the command line and the record of it."""

    seed: int = 0
    steps: int = 300_000
    """Decisions to learn from."""
    n_envs: int = 4
    learning_rate: float = 1e-3
    """At the start; falls linearly to a twentieth."""
    gamma: float = 0.97
    """Discount from one decision to the next."""
    n_steps: int = 3
    """Rewards summed before the network's own estimate takes over."""
    batch_size: int = 128
    buffer_size: int = 200_000
    learning_starts: int = 2_000
    train_freq: int = 1
    """Steps of all environments together between two gradient steps."""
    target_update: int = 2_000
    exploration: float = 0.15
    """Share of the run over which random actions become rare."""
    final_epsilon: float = 0.02
    hidden: int = 64
    """Units of each of the two hidden layers."""
    kappa: float | None = None
    """Slope of the soft deadline; none for the hard one."""
    prompts: int = 3_000
    checkpoints: int = 15
    """How many times the policy is validated."""
    validation: int = 6
    """Validation episodes of each kind of workload."""
    probes: int = 24
    """Episodes played at random for the normalisation and the ranges of the observation."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where training stood: decisions taken, and the mean share of peak on validation."""

    steps: int
    share_of_peak: float


@dataclass(frozen=True)
class Trained:
    """The best network, how it was found, and what it saw: ``ranges`` (features, 2), ``samples`` (n, features)."""

    network: QNetwork
    best: Checkpoint
    history: tuple[Checkpoint, ...]
    ranges: Floats
    samples: Floats


class NetworkPolicy:
    """A Q-network as the control plane's policy, in numpy: a small network costs less there than a call to torch."""

    def __init__(self, network: QNetwork) -> None:
        front = network.features_extractor
        assert isinstance(front, NormalisedInput)
        self._mean, self._scale, self._clip = front.mean.numpy(), front.scale.numpy(), front.clip
        self._layers = [
            (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in network.q_net
            if isinstance(layer, nn.Linear)
        ]

    def __call__(self, observation: Observation, mask: Mask) -> PolicyDecision:
        values = np.clip((observation - self._mean) / self._scale, -self._clip, self._clip)
        *hidden, (weight, bias) = self._layers
        for w, b in hidden:
            values = np.maximum(w @ values + b, 0.0)
        values = weight @ values + bias
        return PolicyDecision(int(np.where(mask, values, -np.inf).argmax()), tuple(values.tolist()))


def validation_episodes(source: EpisodeSource, per_kind: int) -> list[Episode]:
    """Fixed episodes of every kind of workload."""
    return [source.draw(_VALIDATION_SEEDS + i, kind) for kind in WorkloadKind for i in range(per_kind)]


def train(
    arguments: TrainArguments,
    source: EpisodeSource,
    validation: Sequence[Episode],
    progress: Callable[[int, Checkpoint | None], None] = lambda steps, checkpoint: None,
) -> Trained:
    """Learn from ``source``, keep what is best on ``validation``.

    ``progress`` is told the decisions so far, and the checkpoint whenever one is made. Uses one thread; the same
    arguments and sources give the same network.
    """
    torch.set_num_threads(1)
    samples = observe(source, arguments.probes, arguments.seed)
    model = _model(arguments, source, samples)
    watch = _Validation(arguments, validation, progress)
    model.learn(arguments.steps, callback=watch, log_interval=1_000_000)
    model.get_env().close()  # type: ignore[union-attr]
    seen = model.replay_buffer.observations.reshape(-1, samples.shape[1])  # type: ignore[union-attr]
    ranges = np.stack([np.minimum(samples.min(axis=0), seen.min(axis=0)), np.maximum(samples.max(0), seen.max(0))], 1)
    return Trained(watch.network, watch.best, tuple(watch.history), ranges, samples)


def observe(source: EpisodeSource, episodes: int, seed: int) -> Floats:
    """Observations (n, features) under random play, each episode with its own preference for some pools."""
    env = BestEffortEnv(source)
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(episodes):
        preference = rng.dirichlet(np.full(env.codec.slots, 0.7))
        observation, _ = env.reset(seed=int(rng.integers(2**31)) + i)
        ended = False
        while not ended:
            rows.append(observation)
            observation, _, ended, _, _ = env.step(int(rng.choice(env.codec.slots, p=preference)))
    return np.array(rows, np.float32)


def _model(arguments: TrainArguments, source: EpisodeSource, samples: Floats) -> DoubleDQN:
    env = DummyVecEnv([lambda: BestEffortEnv(source, kappa=arguments.kappa) for _ in range(arguments.n_envs)])
    scale = np.maximum(samples.std(axis=0), _LEAST_SCALE)
    rate = arguments.learning_rate
    returns = {"n_steps": arguments.n_steps, "gamma": arguments.gamma}
    return DoubleDQN(
        "MlpPolicy",
        env,
        seed=arguments.seed,
        device="cpu",
        gamma=arguments.gamma,
        learning_rate=lambda left: rate * max(left, 0.05),
        batch_size=arguments.batch_size,
        buffer_size=arguments.buffer_size,
        learning_starts=arguments.learning_starts,
        train_freq=arguments.train_freq,
        target_update_interval=arguments.target_update,
        exploration_fraction=arguments.exploration,
        exploration_final_eps=arguments.final_epsilon,
        replay_buffer_class=CreditedReplayBuffer,
        replay_buffer_kwargs=returns,
        policy_kwargs={
            "net_arch": [arguments.hidden, arguments.hidden],
            "features_extractor_class": NormalisedInput,
            "features_extractor_kwargs": {"mean": samples.mean(axis=0), "scale": scale},
        },
    )


class _Validation(BaseCallback):
    """Plays the validation episodes every so often and keeps the best network."""

    def __init__(
        self,
        arguments: TrainArguments,
        episodes: Sequence[Episode],
        progress: Callable[[int, Checkpoint | None], None],
    ) -> None:
        super().__init__()
        self._interval = max(1, arguments.steps // arguments.checkpoints)
        self._due = self._interval
        self._episodes = episodes
        self._progress = progress
        self.history: list[Checkpoint] = []
        self.best = Checkpoint(0, -1.0)
        self.network: QNetwork

    def _on_step(self) -> bool:
        checkpoint = None
        if self.num_timesteps >= self._due:
            self._due += self._interval
            checkpoint = self._validate()
        self._progress(self.num_timesteps, checkpoint)
        return True

    def _validate(self) -> Checkpoint:
        network = self.model.policy.q_net
        assert isinstance(network, QNetwork)
        checkpoint = Checkpoint(self.num_timesteps, objective(self._episodes, policy_tier(NetworkPolicy(network))))
        self.history.append(checkpoint)
        if checkpoint.share_of_peak > self.best.share_of_peak:
            self.best, self.network = checkpoint, copy.deepcopy(network)
        return checkpoint
