from __future__ import annotations

import re

from predictors.length.lexicon import EXTENTS, FILLERS, GROUPS, ITEMS, LEADING, QUANTITIES


def test_leading_groups_are_groups() -> None:
    assert set(LEADING) <= set(GROUPS)


def test_all_words_are_lower_case_and_can_be_found() -> None:
    word = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
    read_as_words = {*EXTENTS, *ITEMS, *QUANTITIES, *(w for ws in GROUPS.values() for w in ws if w != "c++")}
    assert not [w for w in read_as_words if not word.fullmatch(w) or w != w.lower()]


def test_no_filler_hides_a_word_that_says_what_is_wanted() -> None:
    wanted = {word for name in LEADING for word in GROUPS[name]}
    assert wanted & FILLERS <= {"can", "could", "would", "will"}, "which begin a request more often than a question"


def test_what_is_counted_is_no_number() -> None:
    assert not (set(EXTENTS) | ITEMS) & set(QUANTITIES)
