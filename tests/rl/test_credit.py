from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rl.credit import CreditedReplayBuffer


def _buffer(n_envs: int = 1, n_steps: int = 1) -> CreditedReplayBuffer:
    box = spaces.Box(-10, 100, (1,), np.float32)
    return CreditedReplayBuffer(20 * n_envs, box, spaces.Discrete(3), "cpu", n_envs, n_steps=n_steps, gamma=0.5)


def _add(
    buffer: CreditedReplayBuffer, decision: int, ended: list[dict[int, float]], done: bool = False, peak: float = 0.0
) -> None:
    n = len(ended)
    obs = np.full((n, 1), decision, np.float32)
    infos: list[dict[str, Any]] = [{"decision": decision, "ended": e, "peak": peak} for e in ended]
    buffer.add(obs, obs + 1, np.zeros((n,), np.int64), np.full(n, 99.0), np.full(n, done), infos)


def test_reward_goes_to_the_decision_not_to_the_step_it_was_paid_in() -> None:
    buffer = _buffer()
    _add(buffer, 0, [{}])
    _add(buffer, 1, [{}])
    assert (buffer.pos, buffer.held) == (0, 2)
    _add(buffer, 2, [{1: 0.25}])
    assert buffer.pos == 0  # decision 0 is still open, and order is kept
    _add(buffer, 3, [{0: 1.0, 2: 0.5, 3: 0.125}], done=True)
    assert (buffer.pos, buffer.held) == (4, 0)
    assert buffer.rewards[:4, 0].tolist() == [1.0, 0.25, 0.5, 0.125]
    assert buffer.dones[:4, 0].tolist() == [0, 0, 0, 1]
    assert buffer.observations[:4, 0, 0].tolist() == [0, 1, 2, 3]


def test_environments_wait_for_each_other_but_keep_their_own_rewards() -> None:
    buffer = _buffer(n_envs=2)
    _add(buffer, 0, [{0: 1.0}, {}])
    assert buffer.pos == 0
    _add(buffer, 1, [{1: 2.0}, {0: 3.0}])
    assert buffer.pos == 1
    _add(buffer, 2, [{2: 4.0}, {1: 5.0, 2: 6.0}])
    assert buffer.rewards[:3].tolist() == [[1.0, 3.0], [2.0, 5.0], [4.0, 6.0]]


def test_decision_numbers_start_again_with_the_next_episode() -> None:
    buffer = _buffer()
    _add(buffer, 0, [{0: 1.0}], done=True)
    _add(buffer, 0, [{0: 2.0}], done=True)
    assert buffer.rewards[:2, 0].tolist() == [1.0, 2.0]


def test_several_steps_sum_credited_rewards_and_stop_at_the_end() -> None:
    buffer = _buffer(n_steps=3)
    for i in range(4):
        _add(buffer, i, [{i: 1.0}], done=i == 3)
    batch = buffer._get_samples(np.array([0, 2]))
    assert batch.rewards[:, 0].tolist() == [1.75, 1.5]
    assert batch.dones[:, 0].tolist() == [0.0, 1.0]


def test_what_is_stored_is_what_was_lost() -> None:
    buffer = _buffer()
    _add(buffer, 0, [{}], peak=0.75)
    _add(buffer, 1, [{0: 0.5, 1: 1.0}], done=True, peak=1.0)
    assert buffer.rewards[:2, 0].tolist() == [-0.25, 0.0]


def test_an_episode_must_settle_every_decision() -> None:
    buffer = _buffer()
    with pytest.raises(ValueError, match="open decisions"):
        _add(buffer, 0, [{}], done=True)
