from __future__ import annotations

import numpy as np
import pytest

from controller.observation import Codec
from rl.baselines import FeasibleBest
from rl.play import named_tier, play, policy_tier
from rl.tune import objective
from tests.envs.worlds import PROFILES, SCENARIO, source

POLICY = FeasibleBest.of(SCENARIO, PROFILES, margin=0.5)
ALL = np.ones(3, bool)


def _observe(tokens: float, slack: float, **overrides: float) -> np.ndarray:
    codec = Codec(3)
    values = dict.fromkeys(codec.names, 0.0)
    values |= {"pool0.quality": 0.4, "pool1.quality": 0.7, "pool2.quality": 0.9}
    values |= {"output_tokens": float(np.log1p(tokens)), "slack_s": slack}
    values |= {name.replace("__", "."): value for name, value in overrides.items()}
    return np.array([values[name] for name in codec.names], np.float32)


@pytest.mark.parametrize(
    ("observation", "chosen"),
    [
        (_observe(40, 5.0), 2),  # 40 · 25 ms = 1 s of the 2.5 s allowed
        (_observe(120, 5.0), 1),  # 3 s would be too long, 0.96 s is not
        (_observe(1000, 5.0), 0),
        (_observe(5000, 5.0), 0),  # nobody is fast enough: the fastest
        (_observe(40, 5.0, pool2__inflight=1.0, pool2__wait_s=1.0), 2),
        (_observe(40, 5.0, pool2__inflight=1.0, pool2__queued=3.0, pool2__wait_s=4.0), 1),
        (_observe(40, 5.0, pool1__quality=0.95), 1),
    ],
)
def test_the_best_that_is_fast_enough(observation: np.ndarray, chosen: int) -> None:
    assert POLICY(observation, ALL).action == chosen


def test_the_mask_is_kept() -> None:
    assert POLICY(_observe(40, 5.0), np.array([True, True, False])).action == 1


def test_beats_every_static_tier_under_bursts() -> None:
    episodes = [source().draw(seed) for seed in range(3)]
    static = [objective(episodes, named_tier("static", {"pool": pool})) for pool in PROFILES]
    assert objective(episodes, policy_tier(POLICY)) > max(static)
    assert len(play(episodes[0], policy_tier(POLICY)).served) == len(episodes[0].requests)
