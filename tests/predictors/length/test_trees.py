from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from controller.store import ArtifactStore, shipped_models
from predictors.length.model import RANKER_FILE
from predictors.length.trees import Trees, parse, walk


def booster(**parameters: object) -> lightgbm.Booster:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 5))
    rows[:, 4] = rng.integers(0, 4, 400)
    settings = {"verbosity": -1, "num_leaves": 9, "min_data_in_leaf": 3, "deterministic": True, **parameters}
    categorical = settings.pop("categorical", [])
    data = lightgbm.Dataset(rows, rows[:, 0] * rows[:, 1] + (rows[:, 4] == 2), categorical_feature=categorical)
    return lightgbm.train(settings, data, num_boost_round=12)


def value(trees: Trees, row: np.ndarray) -> float:
    return walk(row, trees.nodes, trees.leaves, trees.branches, trees.threshold, trees.value)


def test_the_shipped_trees_give_lightgbms_own_bits() -> None:
    text = (ArtifactStore(shipped_models(), None).resolve("length/fast") / RANKER_FILE).read_text()
    whole, trees = lightgbm.Booster(model_str=text), parse(text)
    assert trees is not None
    rng = np.random.default_rng(1)
    rows = rng.normal(scale=2.0, size=(200, whole.num_feature())) * (rng.random((200, whole.num_feature())) < 0.7)
    rows[:20] = trees.threshold[:20, None]  # on the edge of a split
    theirs = whole.predict(rows, num_threads=1)
    assert [value(trees, row) for row in rows] == theirs.tolist()


def test_trees_of_one_leaf_and_of_many_give_lightgbms_own_bits() -> None:
    for whole in (booster(objective="regression"), booster(objective="regression", min_data_in_leaf=400)):
        trees = parse(whole.model_to_string())
        assert trees is not None
        rows = np.random.default_rng(2).normal(size=(50, 5))
        assert [value(trees, row) for row in rows] == whole.predict(rows, num_threads=1).tolist()


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "regression", "categorical": [4]},
        {"objective": "regression", "linear_tree": True},
        {"objective": "regression", "boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
        {"objective": "binary"},
    ],
)
def test_other_models_are_left_to_lightgbm(parameters: dict[str, object]) -> None:
    if parameters["objective"] == "binary":
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(400, 5))
        whole = lightgbm.train({"verbosity": -1, **parameters}, lightgbm.Dataset(rows, rows[:, 0] > 0), 5)
    else:
        whole = booster(**parameters)
    assert parse(whole.model_to_string()) is None


def test_text_that_is_no_model_is_none() -> None:
    assert parse("tree\nversion=v4\n") is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("left_child", "0"),
        ("right_child", "-99"),
        ("right_child", "77"),
        ("split_feature", "6"),
        ("split_feature", "-1"),
    ],
)
def test_trees_that_lead_out_of_themselves_or_in_circles_are_left_to_lightgbm(name: str, wrong: str) -> None:
    head, line, rest = booster(objective="regression").model_to_string().partition(f"\n{name}=")
    assert parse(head + line + rest) is not None
    assert parse(head + line + wrong + rest[rest.index(" ") :]) is None
