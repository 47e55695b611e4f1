from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from predictors.codes import coded, unpack
from predictors.compiled import AVAILABLE
from predictors.piece_table import FULL, LEFT, PieceTable, token_ids
from predictors.pieces import Pieces
from tests.predictors.test_pieces import MIXED, ODD, known, tokenizer, whole

__all__ = ["known", "tokenizer"]

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")

Find = Callable[[str], list[int] | int]


def finder(table: PieceTable, checked: bool = False) -> Find:
    def find(text: str) -> list[int] | int:
        codes = unpack(coded(text), text.isascii(), 1)
        found = np.empty(4 * len(codes), dtype=np.int32)
        now, merges = table.remembered, table.merges
        count = token_ids(
            codes,
            checked,
            table.classes,
            table.basis,
            now.entries,
            now.ids,
            now.held,
            merges.characters,
            merges.pairs,
            found,
        )
        return found[:count].tolist() if count >= 0 else count

    return find


@pytest.fixture(scope="module")
def table(known: Pieces) -> PieceTable:
    made = PieceTable(known)
    assert made.usable
    return made


@pytest.mark.parametrize("text", [text for text in ODD if text])
def test_odd_texts_have_the_tokenizers_own_ids(tokenizer: Tokenizer, table: PieceTable, text: str) -> None:
    assert finder(table)(text) == whole(tokenizer, text)


@settings(max_examples=400, deadline=None)
@given(text=MIXED | st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@example(text="𠀀𠀁 \U0010ffff")
@example(text="aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
@example(text="=" * 200)
@example(text="ababababaabbabab" * 20)
def test_any_text_has_the_tokenizers_own_ids_or_is_left(
    tokenizer: Tokenizer, table: PieceTable, known: Pieces, text: str
) -> None:
    for _ in range(2 if text else 0):  # as it is merged, and as it is remembered
        found = finder(table)(text)
        if found == LEFT:
            assert not set(text).isdisjoint(known.openings)
            found = finder(table, checked=True)(text)
        assert found == whole(tokenizer, text) or known.whole(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("etaoin"), min_size=1, max_size=300))
def test_long_words_have_the_tokenizers_own_ids(tokenizer: Tokenizer, table: PieceTable, text: str) -> None:
    assert finder(table)(text) == whole(tokenizer, text)


def test_signs_with_which_special_tokens_begin_are_looked_at(tokenizer: Tokenizer, table: PieceTable) -> None:
    assert finder(table)("a < b") == LEFT
    assert finder(table, checked=True)("a < b") == whole(tokenizer, "a < b")


def test_what_is_remembered_is_bounded(tokenizer: Tokenizer, known: Pieces) -> None:
    table = PieceTable(known)
    start = int(table.remembered.held[0])
    assert finder(table)("zqxkcd") == whole(tokenizer, "zqxkcd")
    assert table.remembered.held[0] == start + 1
    finder(table)("zq" * 60)
    assert table.remembered.held[0] == start + 1, "too long to come again"
    table.remembered.held[0] = len(table.remembered.entries) // 2
    assert finder(table)("zqxkcd") == whole(tokenizer, "zqxkcd")
    assert finder(table)("zqxkce") == FULL
    table.forget()
    assert table.remembered.held[0] == start
    assert finder(table)("zqxkce") == whole(tokenizer, "zqxkce")
