from __future__ import annotations

import math

import numpy as np
import pytest

from predictors.length.features import FEATURES, read
from predictors.length.trend import Z_LIMIT, Trend, standardise
from predictors.types import Prompt

F = len(FEATURES)


def trend(**changes: object) -> Trend:
    landmarks = np.eye(3, 256, dtype=np.float32)
    plain: dict[str, object] = {
        "bias": np.array([0.5, -0.5]),
        "words": {},
        "mean": np.zeros(F),
        "scale": np.zeros(F),
        "lexical": np.zeros((2, F)),
        "landmarks": landmarks,
        "likeness": np.zeros((2, 3)),
        "gamma": 1.0,
    }
    return Trend(**(plain | changes))  # type: ignore[arg-type]


def predicted(model: Trend, text: str, embedding: np.ndarray) -> list[float]:
    readings = read([Prompt(text)])
    rows = embedding.astype(np.float32)[None, :]
    return model.predict(readings, model.place(readings, rows))[0].tolist()


def test_words_weigh_by_their_share_of_the_text() -> None:
    model = trend(words={"poem": (2.0, 3.0, -1.0), "yes": (1.0, 0.0, 0.0)})
    nowhere = np.zeros(256)
    assert predicted(model, "unknown", nowhere) == [0.5, -0.5]
    assert predicted(model, "poem", nowhere) == pytest.approx([3.5, -1.5])
    twice = 2.0 * (1 + math.log(2))
    share = twice / math.hypot(twice, 1.0)
    assert predicted(model, "Poem, poem: yes", nowhere) == pytest.approx([0.5 + 3 * share, -0.5 - share])


def test_likeness_falls_with_distance() -> None:
    model = trend(likeness=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    at, apart = np.exp(0.0), np.exp(-2.0)
    assert predicted(model, "x", np.eye(256)[0]) == pytest.approx([0.5 + at, -0.5 + apart])


def test_lexical_features_are_cut_and_constant_ones_left_out() -> None:
    lexical = np.array([[0.0, 1.0, 100.0]], dtype=np.float32)
    z = standardise(lexical, np.array([5.0, 0.0, 0.0]), np.array([0.0, 2.0, 1.0]))
    assert z.tolist() == [[0.0, 0.5, Z_LIMIT]]


def test_distances_are_euclidean() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 256)).astype(np.float32)
    model = trend()
    expected = ((rows[:, None] - model.landmarks[None]) ** 2).sum(axis=2)
    places = model.place(read([Prompt("x")] * 5), rows)
    assert places.distances == pytest.approx(expected, rel=1e-5)


def test_places_say_how_strange_a_prompt_is() -> None:
    model = trend(mean=np.zeros(F), scale=np.ones(F))
    rows = np.vstack([np.eye(256)[1], -np.eye(256)[1], np.zeros(256)]).astype(np.float32)
    places = model.place(read([Prompt(""), Prompt("write! " * 200), Prompt("")]), rows)
    assert places.likeness == pytest.approx([1.0, 0.0, 0.0])
    assert places.strangeness[0] < places.strangeness[1]
