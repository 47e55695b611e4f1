"""The task suite: repeatable, disjoint splits, right worked answers, lengths that depend on the prompt."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.answers import token_texts
from envs.families import FAMILIES, LEVELS
from envs.tasks import FAMILY_NAMES, Split, Style, content_hash, generate, grade, stream, task_at

seeds = st.integers(0, 2**31)


@given(seed=seeds, index=st.integers(0, 10**6), split=st.sampled_from(Split), family=st.sampled_from(FAMILY_NAMES))
@settings(max_examples=300)
def test_every_worked_answer_is_graded_right_and_lies_in_its_split(
    seed: int, index: int, split: Split, family: str
) -> None:
    task = task_at(seed, index, split, [family])
    assert grade(task, task.worked)
    assert task.split is split
    assert task == task_at(seed, index, split, [family])


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_family_and_level_is_supplied_in_several_wordings(family: str, level: int) -> None:
    tasks = generate(1, 120, "train", [family], [level])
    assert {(task.family, task.level) for task in tasks} == {(family, level)}
    assert len({task.wording for task in tasks}) >= 10
    assert {task.style for task in tasks} == set(Style)


def test_the_canonical_answer_itself_is_graded_right() -> None:
    assert all(grade(task, task.answer) for task in generate(2, 500))


def test_the_stream_starts_with_what_generate_returns() -> None:
    first = list(dict.fromkeys(task.prompt for task in islice(stream(3), 60)))
    assert first[:50] == [task.prompt for task in generate(3, 50)]


def test_splits_share_neither_a_problem_nor_a_prompt() -> None:
    by_split = {split: generate(seed, 1200, split) for seed, split in enumerate(Split)}
    for left in Split:
        for right in Split:
            if left is not right:
                assert not {t.content for t in by_split[left]} & {t.content for t in by_split[right]}
                assert not {content_hash(t.prompt) for t in by_split[left]} & {
                    content_hash(t.prompt) for t in by_split[right]
                }


def test_some_wordings_occur_in_the_test_split_only() -> None:
    wordings = {split: {task.wording for task in generate(4, 800, split)} for split in Split}
    assert not any("t" in w.rsplit("/", 1)[0] for w in wordings[Split.TRAIN] | wordings[Split.VALIDATION])
    held = Counter("t" in task.wording.rsplit("/", 1)[0] for task in generate(4, 800, "test"))
    assert 0.35 < held[True] / 800 < 0.65


def test_practice_words_the_same_problems_otherwise_and_in_training_alone() -> None:
    usual, practised = ([task_at(8, i, practice=share) for i in range(400)] for share in (0.0, 0.8))
    assert [task.content for task in usual] == [task.content for task in practised]
    assert all(grade(task, task.worked) for task in practised)
    assert len({task.prompt for task in practised} & {task.prompt for task in usual}) < 60
    held_out = {w for task in generate(4, 2000, "test") if "t" in (w := task.wording).rsplit("/", 1)[0]}
    assert held_out.isdisjoint(task.wording for task in practised)
    with pytest.raises(ValueError, match="train split"):
        task_at(8, 0, "test", practice=0.5)


def test_some_number_ranges_occur_in_the_test_split_only() -> None:
    def starts(split: str) -> set[int]:
        tasks = generate(5, 300, split, ["word_problems"], [1])
        return {int(next(w for w in t.prompt.split() if w.isdigit())) for t in tasks}

    assert max(starts("train")) <= 20
    assert max(starts("test")) > 20


def test_lengths_spread_widely_and_follow_the_prompt() -> None:
    tasks = generate(6, 1500)
    lengths = sorted(len(token_texts(task.worked)) for task in tasks)
    assert 15 <= median(lengths) <= 200
    assert lengths[int(0.95 * len(lengths))] >= 3 * median(lengths)
    by_style = {style: median(len(token_texts(t.worked)) for t in tasks if t.style is style) for style in Style}
    assert by_style[Style.BRIEF] < by_style[Style.SENTENCE] < by_style[Style.STEPS] < by_style[Style.CHECKED]


def test_harder_levels_take_longer() -> None:
    def typical(level: int) -> float:
        tasks = generate(7, 300, levels=[level])
        return median(len(token_texts(t.worked)) for t in tasks if t.style is Style.STEPS)

    assert typical(1) < typical(2) < typical(3) < typical(4)


def test_a_restriction_that_leaves_too_few_prompts_says_so() -> None:
    with pytest.raises(ValueError, match=r"only \d+ distinct prompts"):
        generate(1, 60_000, "test", ["arithmetic"], [1])


@pytest.mark.parametrize(
    ("families", "levels", "word"), [(["poetry"], [1], "poetry"), ([], [1], "arithmetic"), (None, [5], "levels")]
)
def test_unknown_families_and_levels_are_refused(families: list[str] | None, levels: list[int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        generate(1, 1, "train", families, levels)


def test_a_task_is_also_a_chat() -> None:
    task = task_at(1, 1)
    assert task.messages == [{"role": "user", "content": task.prompt}]
    assert len({family.name for family in FAMILIES}) == 9
