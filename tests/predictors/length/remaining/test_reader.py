"""Reading a running answer: what is counted, that it does not matter how the text was cut, and that it stays cheap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.length.remaining.lines import Kind, announced, is_fence, kind_of
from predictors.length.remaining.reader import FEATURES, PART, StreamReader
from tests.predictors.length.remaining.samples import ODD

PIECES = st.lists(
    st.sampled_from(
        ["a word", " ", "\n", "\n\n", "1. ", "- ", "```", "# T", "| x |", ". ", "{", ")", "七、", "…", "",
         "In conclusion", "Here are five tips:", "hope this helps", "y" * 300, "\r\n", "**b**"]
    ),
    max_size=60,
)  # fmt: skip


def seen(text: str, tokens: int = 10) -> dict[str, float]:
    reader = StreamReader()
    reader.feed(text)
    return dict(zip(FEATURES, reader.look(tokens).tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(PIECES, st.integers(1, 17))
def test_how_the_text_was_cut_makes_no_difference(pieces: list[str], size: int) -> None:
    text = "".join(pieces)
    whole, cut = StreamReader(), StreamReader()
    whole.feed(text)
    for start in range(0, len(text), size):
        cut.feed(text[start : start + size])
        cut.feed("")
    assert whole.look(7).tolist() == cut.look(7).tolist()


@settings(max_examples=60, deadline=None)
@given(PIECES)
def test_looking_changes_nothing(pieces: list[str]) -> None:
    looked, blind = StreamReader(), StreamReader()
    for piece in pieces:
        looked.feed(piece)
        looked.look(3)
        blind.feed(piece)
    assert looked.look(3).tolist() == blind.look(3).tolist()


@pytest.mark.parametrize("text", ODD)
def test_features_are_finite_and_every_character_is_counted(text: str) -> None:
    features = seen(text, 10)
    assert all(np.isfinite(value) for value in features.values())
    assert features["chars_per_token"] == pytest.approx(len(text) / 10)


@pytest.mark.parametrize(
    ("line", "kind", "number"),
    [
        ("", Kind.BLANK, 0),
        ("Some prose.", Kind.PROSE, 0),
        ("## Title", Kind.HEADING, 0),
        ("**Title**", Kind.HEADING, 0),
        ("- item", Kind.BULLET, 0),
        ("  * item", Kind.BULLET, 0),
        ("12. item", Kind.NUMBERED, 12),
        ("3) item", Kind.NUMBERED, 3),
        ("**2. Bold item**", Kind.NUMBERED, 2),
        ("### Step 4: go", Kind.NUMBERED, 4),
        ("5、苹果", Kind.NUMBERED, 5),
        ("3.14 is pi", Kind.PROSE, 0),
        ("| a | b |", Kind.TABLE, 0),
    ],
)
def test_kinds_of_lines(line: str, kind: Kind, number: int) -> None:
    assert kind_of(line, in_code=False) == (kind, number)
    assert kind_of(line, in_code=True) == (Kind.CODE, 0)


def test_what_was_announced() -> None:
    assert announced("here are five easy ways to do it:") == 5
    assert announced("the 10 best movies of all time") == 10
    assert announced("there are several possible reasons.") == 5
    assert announced("the train leaves at 10.") == 0
    half = seen("Here are 4 tips:\n\n1. Sleep well every night.\n2. Eat")
    assert (half["announced"], half["number"], half["announced_left"]) == (4, 2, 2)
    assert half["announced_tokens"] > 0


def test_code_is_open_until_its_fence() -> None:
    assert is_fence("  ```py")
    within = seen("Look:\n```py\nx = 1\ny = (2")
    after = seen("Look:\n```py\nx = 1\ny = (2)\n```\nDone.")
    assert (within["in_code"], within["code_lines"], within["since_code"]) == (1, 2, -1)
    assert (after["in_code"], after["code_lines"], after["fences_closed"]) == (0, 2, 1)
    assert after["since_code"] == len("Done.")
    assert (within["open_brackets"], after["open_brackets"]) == (1, 0)


def test_closing_phrases_and_how_long_ago_they_were() -> None:
    assert seen("All is well.")["since_closing"] == -1
    assert seen("I hope this helps!")["since_closing"] == len("hope this helps!")
    assert seen("In conclusion, yes.\nMore.")["since_conclusion"] == len("In conclusion, yes.\nMore.")


def test_repeating_oneself_shows() -> None:
    said = "the quick brown fox jumps over a lazy dog while nobody looks. "
    assert seen(said * 20)["share_new"] < 0.1 < 0.9 < seen(said)["share_new"]
    assert seen(said * 20)["share_new_recent"] < seen(said)["share_new_recent"]


@pytest.mark.parametrize("piece", ["word ", "word\n", "字", "x", "```\n", "- a\n\n"])
def test_memory_is_bounded(piece: str) -> None:
    reader = StreamReader()
    for _ in range(300):
        reader.feed(piece * 100)
    assert len(reader._tail) <= PART
    assert len(reader._words._seen) == 8192
