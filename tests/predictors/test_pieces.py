from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from predictors import pieces
from predictors.pieces import Pieces

ODD = [
    "",
    " ",
    "  two  spaces ",
    "a\n\n- b\n",
    "caf\u00e9 (\u00e9t\u00e9).",
    "\u201cso?\u201d, he\u2019d said\u2026",
    "x=1;y[2]",
    "1234 5,6",
    "\u00b2.)",
    "日本語 の 文",
    "🙂ok🙂",
    "\t tab",
]
MIXED = st.text(st.sampled_from("ab eE'.,?\n-(1²\u201d\u201c\u00e9\u2019«»日🙂\t\x00"), max_size=80)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    loaded = Tokenizer.from_file(str(Path(spec.origin).parent / "tokenizers/l2_supercat_tokenizer_config.json"))
    loaded.no_padding()
    loaded.no_truncation()
    return loaded


@pytest.fixture(scope="module")
def known(tokenizer: Tokenizer) -> Pieces:
    return Pieces(tokenizer)


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_have_the_tokenizers_own_ids(tokenizer: Tokenizer, known: Pieces, text: str) -> None:
    assert known.ids(text) == whole(tokenizer, text)


@settings(max_examples=300)
@given(text=MIXED | st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_has_the_tokenizers_own_ids_or_none(tokenizer: Tokenizer, known: Pieces, text: str) -> None:
    for _ in range(2):  # as it is learned, and as it is remembered
        assert known.ids(text) in (None, whole(tokenizer, text))


def test_texts_that_hold_the_tokenizers_own_signs_are_left_to_it(known: Pieces) -> None:
    assert known.ids("a <s> b") is None
    assert known.ids("a▁b") is None


def test_what_is_remembered_is_bounded(tokenizer: Tokenizer, known: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "REMEMBERED", len(known._known) + 50)
    for number in range(60):
        text = "zq" * (1 + number % 20) + "xkcd" * (number // 20)
        assert known.ids(text) == whole(tokenizer, text)
        assert len(known._known) <= pieces.REMEMBERED


def test_a_tokenizer_whose_tokens_span_words_is_not_cut(tokenizer: Tokenizer) -> None:
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"]["e▁t"] = 32000
    document["model"]["merges"].append(["e", "▁t"])
    assert Pieces(Tokenizer.from_str(json.dumps(document))).ids("the tea") is None
