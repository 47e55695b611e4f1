from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.predictor_cost_of import BATCH, Sources, chunks, measure
from benchmarks.remaining_load import KNOWN, Streams, replay
from controller.store.artifacts import ArtifactStore, shipped_models
from controller.types import Scores
from gateway.events import shown
from predictors.latency.model import Profile

TEXTS = tuple(f"Write {i} lines about the number {i}, and explain each of them. " * 20 for i in range(2 * BATCH))


@given(st.text(max_size=200))
def test_a_stream_shows_the_text_that_it_was_made_of(text: str) -> None:
    assert shown(b"".join(chunks(text))) == text


@pytest.mark.parametrize("name", ["length_prompt", "fast", "remaining"])
def test_what_ships_can_be_measured_without_data(name: str) -> None:
    cost = measure(name, Sources(TEXTS, None, None, None))
    assert 0.0 < cost.us_p50 <= cost.us_p99
    assert 0.0 < cost.batch_us_p50 <= cost.batch_us_p99
    assert cost.per_s > 0.0


@pytest.mark.parametrize("name", ["lexical", "history"])
def test_what_has_to_be_fitted_first_says_what_it_needs(name: str) -> None:
    with pytest.raises(ValueError, match="--data or HEADWAY_DATA"):
        measure(name, Sources(TEXTS, None, None, None))


def test_the_truth_at_each_look_leaves_the_least_error_and_age_less_than_nothing() -> None:
    profile = Profile.load(ArtifactStore(shipped_models(), None).resolve("profile/h100-8b"))
    outputs = tuple(50 + 37 * i % 800 for i in range(60))
    looks = tuple(((0, 48), (400.0, max(n - 48.0, 1.0))) for n in outputs)
    streams = Streams(("m",) * 60, (100,) * 60, outputs, (Scores(0.5, 400.0),) * 60, looks)
    rows = [i % 60 for i in range(300)]
    at = [i * 0.05 for i in range(300)]
    errors = {known: replay(streams, rows, at, "least_load", known, [profile] * 2, 1.0)["error"] for known in KNOWN}
    assert errors["truth from the start"] < errors["truth at each look"] < errors["none"]
    assert errors["remaining"] < errors["none"]
    assert errors["whole answers, by age"] < errors["whole answers"]
