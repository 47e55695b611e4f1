from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.length.features import FEATURES, asked, read
from predictors.types import Prompt


def features(text: str, max_tokens: int | None = None, turns: int = 1) -> dict[str, float]:
    row = read([Prompt(text, max_tokens, turns)]).lexical[0]
    return dict(zip(FEATURES, row.tolist(), strict=True))


def words(text: str) -> tuple[str, ...]:
    return read([Prompt(text)]).words[0]


@settings(max_examples=200)
@given(st.text(max_size=2500), st.none() | st.integers(-5, 10**9), st.integers(-1, 1000))
def test_any_text_gives_finite_features(text: str, max_tokens: int | None, turns: int) -> None:
    readings = read([Prompt(text, max_tokens, turns)])
    assert readings.lexical.shape == (1, len(FEATURES))
    assert np.isfinite(readings.lexical).all()


@given(st.lists(st.text(alphabet=st.characters(codec=None), max_size=60), max_size=5))
def test_rows_do_not_depend_on_each_other(texts: list[str]) -> None:
    together = read([Prompt(text) for text in texts])
    for i, text in enumerate(texts):
        alone = read([Prompt(text)])
        assert np.array_equal(alone.lexical[0], together.lexical[i])
        assert alone.words[0] == together.words[i]


def test_the_schema_names_each_column_once() -> None:
    assert len(set(FEATURES)) == len(FEATURES)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("write an essay of 500 words", 700.0),
        ("in one sentence", 28.0),
        ("a 1,000 word story", 1400.0),
        ("two short paragraphs", 220.0),
        ("five hundred words or less", 700.0),
        ("three sentences, then 20 words", 84.0),
        ("explain the first two pages of chapter one", 1300.0),
        ("explain relativity", None),
        ("a good word", None),
    ],
)
def test_the_extent_a_prompt_asks_for(text: str, tokens: float | None) -> None:
    found = asked(words(text)).tokens
    assert found == (None if tokens is None else pytest.approx(tokens))


@pytest.mark.parametrize(
    ("text", "items"),
    [("give me ten ideas", 10.0), ("5 short bullet points", 5.0), ("list several tips", 5.0), ("hi", 0)],
)
def test_the_items_a_prompt_asks_for(text: str, items: float) -> None:
    assert asked(words(text)).items == items


def test_an_absurd_request_is_bounded() -> None:
    assert asked(words("999999999999 words")).tokens == pytest.approx(14_000.0)


def test_what_the_first_and_the_last_clause_want() -> None:
    row = features("Please write a haiku. The moon is out. Then explain it")
    assert (row["first_create"], row["last_explain"]) == (1.0, 1.0)
    assert (row["first_explain"], row["last_create"]) == (0.0, 0.0)
    assert row["heads_create"] == row["heads_explain"] > 0


def test_shape_and_script() -> None:
    assert features("1234567890")["share_digit"] == pytest.approx(1.0)
    assert features("Привет")["share_cyrillic"] == pytest.approx(1.0)
    assert features("你好")["share_asian"] == pytest.approx(1.0)
    assert features("```py\nx\n```")["count_fences"] == pytest.approx(np.log1p(2))
    assert features("Why? ")["ends_with_question"] == 1.0
    assert features("- one\n- two\n3. three")["count_bullets"] == pytest.approx(np.log1p(3))
    assert features("Pick.\na) x\nb) y")["count_choices"] == pytest.approx(np.log1p(2))


def test_limits_and_turns() -> None:
    assert features("x")["has_max_tokens"] == 0.0
    assert features("x", max_tokens=63)["log_max_tokens"] == pytest.approx(np.log(64))
    assert features("x", turns=3)["log_turns"] == pytest.approx(np.log(4))


def test_a_long_text_is_read_at_its_ends_only() -> None:
    text = "Translate this: " + "x " * 50_000 + "poem " * 2_000 + "y " * 50_000 + "in one sentence?"
    row = features(text)
    assert row["words_story"] == 0.0
    assert row["has_asked_extent"] == 1.0
    assert row["log_chars"] == pytest.approx(np.log1p(len(text)))
