"""The pseudo-tokenizer is reversible, stable and of ordinary fineness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.engines import tokenizer


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    assert "".join(tokenizer.pieces(text)) == text
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "replace").decode()
    assert tokenizer.count(text) == len(tokenizer.encode(text))


@given(st.text(min_size=1))
def test_ids_are_numbers_that_json_can_carry(text: str) -> None:
    assert all(0 < token < 2**53 for token in tokenizer.encode(text))


def test_english_takes_about_four_characters_a_token() -> None:
    text = "The quick brown fox jumps over the lazy dog, and 27 other animals watched it from behind the fence. " * 5
    assert 3.0 < len(text) / tokenizer.count(text) < 5.0


def test_ids_never_change() -> None:
    assert tokenizer.encode("Hi 42!") == [0x014869, 0x01203432, 0x0121]


@pytest.mark.parametrize("token", [-1, 0, 1, 255, 0x024869, 2**60])
def test_other_numbers_are_out_of_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match="out of vocabulary"):
        tokenizer.decode([token])


def test_a_chat_costs_its_template_too() -> None:
    assert tokenizer.count_chat(["one two", "three"]) == 3 + (4 + 2) + (4 + 1)
