from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from controller.observation import Codec
from envs.episode import Randomisation
from envs.scenarios import Scenario, WorkloadKind
from rl.play import named_tier, policy_tier
from rl.train import Checkpoint, NetworkPolicy, TrainArguments, observe, train, validation_episodes
from rl.tune import objective
from tests.envs.worlds import PROFILES, SCENARIO, source

OVERLOAD: Scenario = replace(SCENARIO, base_rate=20.0, burst_rate=30.0, bursts=((1.0, 4.0),), duration_s=6.0)
QUICK = TrainArguments(
    steps=2_500,
    n_envs=2,
    learning_rate=2e-3,
    gamma=0.9,
    learning_starts=300,
    target_update=200,
    hidden=32,
    exploration=0.5,
    checkpoints=2,
    validation=1,
    probes=2,
)


@pytest.fixture(scope="module")
def world():  # type: ignore[no-untyped-def]
    fixed = source(OVERLOAD)
    return source(OVERLOAD, Randomisation(rate=0.3)), validation_episodes(fixed, 1), fixed


def test_a_short_run_beats_every_static_tier_in_an_overload(world) -> None:  # type: ignore[no-untyped-def]
    around, validation, fixed = world
    told: list[Checkpoint] = []
    trained = train(QUICK, around, validation, lambda steps, point: told.append(point) if point else None)
    assert tuple(told) == trained.history
    assert trained.best == max(trained.history, key=lambda point: point.share_of_peak)
    unseen = [fixed.draw(77 + i, WorkloadKind.BURSTY) for i in range(2)]
    learned = objective(unseen, policy_tier(NetworkPolicy(trained.network)))
    static = [objective(unseen, named_tier("static", {"pool": pool})) for pool in PROFILES]
    assert learned > max(static) + 0.05
    assert (trained.ranges[:, 0] <= trained.samples.min(axis=0)).all()
    assert (trained.ranges[:, 1] >= trained.samples.max(axis=0)).all()


def test_the_same_arguments_give_the_same_network(world) -> None:  # type: ignore[no-untyped-def]
    around, validation, _ = world
    tiny = replace(QUICK, steps=400, learning_starts=100, checkpoints=1)
    first, second = (train(tiny, around, validation[:1]) for _ in range(2))
    assert first.history == second.history
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_numpy_policy_is_the_network(world) -> None:  # type: ignore[no-untyped-def]
    around, validation, _ = world
    trained = train(replace(QUICK, steps=200, learning_starts=50, checkpoints=1), around, validation[:1])
    policy = NetworkPolicy(trained.network)
    with torch.no_grad():
        values = trained.network(torch.as_tensor(trained.samples[:50])).numpy()
    for row, observation in zip(values, trained.samples[:50], strict=True):
        decision = policy(observation, np.array([True, True, True]))
        assert decision.scores == pytest.approx(row.tolist(), abs=1e-4)
        assert decision.action == int(row.argmax())
        masked = policy(observation, np.array([True, False, True]))
        assert masked.action != 1


def test_probes_look_around() -> None:
    samples = observe(source(OVERLOAD), episodes=3, seed=0)
    names = Codec(3).names
    assert samples.shape[1] == len(names)
    assert samples[:, names.index("pool2.queued")].max() > 1.0


def test_validation_episodes_are_fixed_and_of_every_kind() -> None:
    first, second = (validation_episodes(source(), 2) for _ in range(2))
    assert [e.kind for e in first] == [kind for kind in WorkloadKind for _ in range(2)]
    assert [e.requests for e in first] == [e.requests for e in second]
