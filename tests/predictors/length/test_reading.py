from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.store import ArtifactStore, shipped_models
from predictors.compiled import AVAILABLE
from predictors.length.features import FEATURES, read
from predictors.length.lexicon import EXTENTS, FILLERS, GROUPS, ITEMS, QUANTITIES
from predictors.length.model import FastLength
from predictors.length.reading import Reader
from predictors.length.trend import Trend
from predictors.types import Prompt

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="without numba the other path is all there is")

WORDS = sorted(set().union(*GROUPS.values(), FILLERS, ITEMS, EXTENTS, QUANTITIES))
JOINTS = [
    " ",
    "  ",
    ". ",
    "?\n",
    "\n- ",
    "\n12) ",
    "\n(a) ",
    ", ",
    ": ",
    " 500 ",
    " 1,000 ",
    "...",
    "```",
    "://",
    "'s ",
    "|",
    "\u201d",
    "\u00a0",
    "\u00e9",
    "\r\n",
]
SENTENCES = st.lists(
    st.sampled_from([*WORDS, "Zebra", "C++", "don't", "x1y2"]) | st.sampled_from(JOINTS), max_size=60
).map("".join)


@pytest.fixture(scope="module")
def trend() -> Trend:
    return FastLength.load(ArtifactStore(shipped_models(), None).resolve("length/fast")).trend


@pytest.fixture(scope="module")
def reader(trend: Trend) -> Reader:
    return Reader(trend.words)


@settings(max_examples=400, deadline=None)
@given(
    text=SENTENCES | st.text(max_size=1200) | st.text(st.characters(max_codepoint=127), max_size=1200),
    limit=st.none() | st.integers(0, 9999),
    turns=st.integers(0, 9),
)
@example(text="five hundred words, 1,000 tips and ten short bullet points\n- a\n2. b\n(c) d", limit=None, turns=1)
@example(text='please could you, (write) me: "a list". Why?', limit=64, turns=2)
@example(text="", limit=0, turns=0)
@example(text="x " * 900, limit=None, turns=1)
@example(text="日本語で、詩を書いて。\u3000🙂 Ωß İstanbul \ud800\n• ok", limit=5, turns=1)
def test_one_pass_reads_what_the_features_say_bit_for_bit(
    reader: Reader, trend: Trend, text: str, limit: int | None, turns: int
) -> None:
    prompt = Prompt(text, limit, turns)
    found = reader.read(prompt)
    if found is None:
        assert not text.isascii()
        return
    readings = read([prompt])
    lexical, sums = found
    assert dict(zip(FEATURES, lexical.tolist(), strict=True)) == dict(
        zip(FEATURES, readings.lexical[0].tolist(), strict=True)
    )
    assert tuple(sums) == trend._words(readings.words[0])


@pytest.mark.parametrize("text", ["𠀀", "٣ tips", "\uff15 \ufb01"])
def test_what_it_does_not_know_is_left_to_the_others(reader: Reader, text: str) -> None:
    assert reader.read(Prompt(text)) is None
