from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from envs.registration import ROUTE
from envs.route import RouteEnv
from envs.route_table import RouteTable, prices
from predictors.quality.model import Price
from predictors.quality.table import RoutingTable
from tests.envs.worlds import PROFILES, SCENARIO, prompts, source

SOURCE = source()
TABLE = RoutingTable(
    name="two",
    ids=("a", "b", "c"),
    tasks=("t", "t", "u"),
    prompts=("one", "two words here", "three"),
    models=("weak", "strong"),
    quality=np.array([[1, 1], [0, 1], [0, 1]], np.float32),
    costs=np.array([[0.0, 1.0]] * 3),
    prices=(Price(0, 0, 200), Price(0, 0, 200)),
    sha256="0" * 64,
)


def run(env: RouteEnv, model: int | None, seed: int, usd: float | None = None) -> float:
    """The sum of rewards of one model for all, or of the best by what is seen."""
    row, _ = env.reset(seed=seed, options={} if usd is None else {"lambda_usd": usd})
    total, over = 0.0, False
    while not over:
        action = int(np.argmax(row[3::2] - row[4::2])) if model is None else model
        row, reward, over, _, _ = env.step(action)
        total += reward
    return total


def test_rewards_by_hand_from_a_routing_table() -> None:
    env = RouteEnv(table=RouteTable.of_table(TABLE), prompts=30)
    env.reset(seed=0, options={"lambda_usd": 0.25})
    for _ in range(30):
        _, reward, over, _, info = env.step(1)
        assert reward == pytest.approx(1.0 - 0.25)
    assert over
    env.reset(seed=0, options={"lambda_usd": 0.25})
    for _ in range(30):
        _, reward, _, _, info = env.step(0)
        assert reward == (1.0 if info["row"] == 0 else 0.0)


def test_a_table_without_a_predictor_shows_means_and_says_so() -> None:
    env = RouteEnv(table=RouteTable.of_table(TABLE), prompts=3)
    row, _ = env.reset(seed=0, options={"lambda_usd": 0.5})
    shown = dict(zip(env.names, row.tolist(), strict=True))
    assert shown["known"] == 0.0
    assert shown["weak.quality"] == pytest.approx(1 / 3)
    assert shown["strong.cost"] == 0.5
    assert shown["lambda"] == pytest.approx(np.log(0.5))


def test_what_it_costs_decides_what_is_best() -> None:
    env = RouteEnv(SOURCE, prompts=200)
    cheap, dear = (share / env.table.scale_usd for share in (0.001, 5.0))
    assert run(env, 2, 0, cheap) > run(env, 0, 0, cheap)
    assert run(env, 0, 0, dear) > run(env, 2, 0, dear)
    middle = 0.3 / env.table.scale_usd
    assert run(env, None, 0, middle) > max(run(env, model, 0, middle) for model in range(3))


def test_predictions_are_shown_and_the_truth_is_paid() -> None:
    bank = prompts()
    table = RouteTable.of_prompts(bank, prices(SCENARIO, PROFILES))
    env = RouteEnv(table=table, prompts=20)
    row, _ = env.reset(seed=1)
    for _ in range(20):
        predicted = row[3::2].tolist()
        row, _, _, _, info = env.step(2)
        scores = bank.scores[info["row"]].quality
        assert scores is not None
        assert predicted == pytest.approx([scores[pool] for pool in bank.pools])
        assert info["quality"] == bank.quality[info["row"], 2]
        assert info["usd"] == pytest.approx(table.usd[info["row"], 2])


def test_prices_follow_what_a_worker_costs_and_makes() -> None:
    """8 answers at once at 25 ms a token and 1 $/h: 320 tokens a second, 0.87 $ a million."""
    large = prices(SCENARIO, PROFILES)[2]
    assert large.output_usd_per_mtok == pytest.approx(1e6 / 3600 / 320)
    assert large.input_usd_per_mtok == pytest.approx(0.1 * large.output_usd_per_mtok)


def test_willingness_is_drawn_within_its_range() -> None:
    env = RouteEnv(SOURCE, prompts=1, willingness=(0.1, 2.0))
    drawn = [env.reset(seed=seed)[1]["lambda_usd"] * env.table.scale_usd for seed in range(60)]
    assert 0.1 <= min(drawn) < 0.2
    assert 1.0 < max(drawn) <= 2.0


def test_what_does_not_fit_is_refused() -> None:
    table = RouteTable.of_table(TABLE)
    with pytest.raises(ValueError, match="shape"):
        replace(table, usd=table.usd[:2])
    with pytest.raises(ValueError, match="ascending"):
        RouteEnv(table=table, willingness=(2.0, 1.0))
    with pytest.raises(ValueError, match="source"):
        RouteEnv(table=table, engine="live", urls={"weak": ["http://there"]})


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    vector = gymnasium.make_vec(ROUTE, num_envs=5, vectorization_mode="vector_entry_point", source=SOURCE, prompts=7)
    singles = [RouteEnv(SOURCE, prompts=7) for _ in range(5)]
    seen, _ = vector.reset(seed=3)
    assert np.array_equal(seen, [env.reset(seed=3 + place)[0] for place, env in enumerate(singles)])
    rng = np.random.default_rng(0)
    for step in range(7):
        actions = rng.integers(0, 3, 5)
        seen, rewards, terminated, truncated, info = vector.step(actions)
        rows = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert np.array_equal(seen, [row[0] for row in rows])
        assert rewards == pytest.approx([row[1] for row in rows])
        assert info["row"].tolist() == [row[4]["row"] for row in rows]
        assert terminated.all() == (step == 6)
        assert not truncated.any()
    seen, rewards, terminated, _, _ = vector.step(actions)
    assert np.array_equal(seen, [env.reset()[0] for env in singles])
    assert not rewards.any()
    assert not terminated.any()
