"""Following a stream: when something is said, that it is sound for any text, and that an artifact says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictors.artifact import ArtifactSchema, load
from predictors.length.card import Facts
from predictors.length.remaining.card import write_remaining
from predictors.length.remaining.filter import LIMIT
from predictors.length.remaining.model import SCHEMA, TABLES_FILE, TREES_FILE, RemainingLength
from tests.predictors.length.remaining import samples as samples


@pytest.fixture(scope="module")
def model() -> RemainingLength:
    return samples.learner().model_


def test_it_speaks_every_so_many_tokens(model: RemainingLength) -> None:
    track = model.begin(0.5, 100.0, every=40)
    spoken = [tokens for tokens in range(1, 201) if track.feed("word ", tokens) is not None]
    assert spoken == [40, 80, 120, 160, 200]
    assert track.latest.tokens == 200


def test_before_the_first_token_it_says_what_the_prompt_says(model: RemainingLength) -> None:
    first = model.begin(0.5, 100.0).latest
    assert first.tokens == 0
    assert 0.0 < first.low < first.expected < first.high <= LIMIT


@pytest.mark.parametrize("text", samples.ODD)
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_any_text_in_any_pieces_gets_a_sound_answer(model: RemainingLength, text: str, size: int) -> None:
    track = model.begin()
    pieces = [text[start : start + size] for start in range(0, len(text), size)] or [""]
    for tokens, piece in enumerate(pieces, start=1):
        track.feed(piece, 50 * tokens)
    said = track.latest
    assert said.tokens == 50 * len(pieces)
    assert 0.0 <= said.low <= said.high <= LIMIT
    assert np.isfinite(said.expected)
    assert said.expected > 0.0


def test_the_cut_of_a_text_makes_no_difference(model: RemainingLength) -> None:
    text = samples.answers().texts[3]
    whole, cut = model.begin(0.3, 90.0), model.begin(0.3, 90.0)
    whole.feed(text, 100)
    for start in range(0, len(text), 3):
        cut.feed(text[start : start + 3], 0)
    cut.feed("", 100)
    assert whole.latest == cut.latest


def test_empty_pieces_and_totals_that_fall_are_harmless(model: RemainingLength) -> None:
    track = model.begin()
    assert track.feed("", 0) is None
    assert track.feed("some words", 60) is not None
    assert track.feed("", 10) is None
    assert track.feed("", 60) is None
    assert track.latest.tokens == 60


def test_a_limit_caps_what_is_left(model: RemainingLength) -> None:
    free, capped = model.begin(0.9, 140.0), model.begin(0.9, 140.0, max_tokens=50)
    assert capped.latest.expected < free.latest.expected
    assert capped.latest.high <= 50.0
    said = capped.feed("word " * 45, 45)
    assert said is not None
    assert said.expected <= 5.0


def test_far_beyond_what_was_learned_it_still_expects_something(model: RemainingLength) -> None:
    track = model.begin(0.5, 100.0)
    for tokens in range(40, 8000, 40):
        said = track.feed("word " * 40, tokens)
        assert said is not None
        assert np.isfinite(said.expected)
    assert 1000.0 < track.latest.expected < 4000.0
    more = model.begin(0.5, 9000.0)
    said = more.feed("word " * 3000, 3000)
    assert said is not None
    assert said.expected > 2500.0


def test_memory_does_not_grow_with_the_stream(model: RemainingLength) -> None:
    track = model.begin()
    for _ in range(50_000):
        track.feed("word ", 0)
        assert track._size <= 4096 + 5
    assert len(track._reader._tail) <= 1024


def test_what_is_not_known_of_a_prompt_follows_from_what_is(model: RemainingLength) -> None:
    rank, expected = model.prior(0.5, None)
    assert model.prior(None, expected) == pytest.approx((rank, expected))
    low, high = model.prior(None, 1.0)[0], model.prior(None, 1e6)[0]
    assert low <= model.prior(None, None)[0] <= high


@pytest.mark.parametrize("arguments", [(float("nan"), None), (None, float("inf")), (None, None, 0)])
def test_bad_arguments_are_refused(model: RemainingLength, arguments: tuple[float | None, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        model.begin(*arguments)  # type: ignore[arg-type]


def test_an_artifact_says_the_same(model: RemainingLength, tmp_path: Path) -> None:
    facts = Facts("remaining", 1, "2026-01-01T00:00:00+00:00", [samples.answers().provenance], {"tau_b_128": None}, {})
    write_remaining(tmp_path, samples.learner(), facts)
    folder = tmp_path / "length" / "remaining" / "1"
    again = RemainingLength.load(folder)
    text = samples.answers().texts[0]
    for one in (model, again):
        one.begin(0.4, 80.0).feed(text, 100)
    tracks = [one.begin(0.4, 80.0) for one in (model, again)]
    assert tracks[0].feed(text, 100) == tracks[1].feed(text, 100)
    assert "length/remaining/1" in (folder / "card.md").read_text()
    assert load(folder, kind="length", features=SCHEMA).manifest.version == 1


def test_files_that_do_not_fit_are_refused(model: RemainingLength) -> None:
    files = model.export()
    with pytest.raises(ArtifactSchema, match="LightGBM"):
        RemainingLength.from_files({**files, TREES_FILE: b"tree\n"})
    with pytest.raises(ArtifactSchema, match="not a predictor"):
        RemainingLength.from_files({**files, TABLES_FILE: b"PK"})
    with pytest.raises(ArtifactSchema, match="not a predictor"):
        RemainingLength.from_files({TREES_FILE: files[TREES_FILE]})
