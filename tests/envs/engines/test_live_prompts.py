"""Synthetic prompts: exact in length, repeatable, and sharing exactly what they should share."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.engines.live_prompts import SyntheticPrompts, compose

PROMPTS = SyntheticPrompts([11, 7, 5, 7, 300, 42], block_tokens=16)


def shared(first: list[int], second: list[int]) -> int:
    """Tokens from the start that are the same."""
    pairs = zip(first, second, strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(first))


@given(count=st.integers(1, 300), name=st.text(max_size=8), blocks=st.lists(st.integers(0, 2**64 - 1), max_size=12))
def test_prompts_have_their_length_and_repeat(count: int, name: str, blocks: list[int]) -> None:
    prompt = PROMPTS.tokens(name, count, blocks)
    assert len(prompt) == count
    assert set(prompt) <= {5, 7, 11, 42, 300}
    assert prompt == PROMPTS.tokens(name, count, blocks)


@given(common=st.integers(0, 6), first=st.integers(0, 6), second=st.integers(0, 6))
def test_prompts_share_the_blocks_that_their_prefixes_share(common: int, first: int, second: int) -> None:
    head = list(range(1, common + 1))
    one = PROMPTS.tokens("one", 400, [*head, *range(100, 100 + first)])
    other = PROMPTS.tokens("other", 400, [*head, *range(200, 200 + second)])
    assert 16 * common <= shared(one, other) < 16 * common + 16


def test_another_seed_makes_other_prompts() -> None:
    assert SyntheticPrompts([1, 2, 3], seed=1).tokens("a", 40) != SyntheticPrompts([1, 2, 3]).tokens("a", 40)


def test_one_token_is_no_alphabet() -> None:
    with pytest.raises(ValueError, match="at least two tokens, not 1"):
        SyntheticPrompts([4, 4])


def test_what_a_body_says_itself_goes_before() -> None:
    path, raw = compose({"messages": [], "model": "mine", "priority": 3, "stream": False}, "pool's", 7)
    body = json.loads(raw)
    assert path == "/v1/chat/completions"
    assert (body["model"], body["priority"], body["stream"]) == ("mine", 3, True)
    path, raw = compose({"prompt": "x"}, "pool's", None)
    assert path == "/v1/completions"
    assert "priority" not in json.loads(raw)
