"""Reworded prompts still ask for the same."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from envs.ladder.rewording import reworded
from envs.tasks import Style, task_at


@given(seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
def test_what_carries_the_problem_stays(seed: int, index: int) -> None:
    task = task_at(seed, index)
    other = reworded(task, Random(seed))
    for pattern in (r"\d+", r"'[a-z]+'", r"\b[B-H]\b"):
        assert [p for p in re.findall(pattern, other) if p in task.prompt] == re.findall(pattern, task.prompt)


def test_the_same_draw_gives_the_same_words() -> None:
    task = task_at(1, 2)
    assert reworded(task, Random(3)) == reworded(task, Random(3))


def test_most_prompts_change_and_only_open_ones_get_a_clause() -> None:
    tasks = [task_at(5, index) for index in range(300)]
    changed = [(task, reworded(task, Random(index))) for index, task in enumerate(tasks)]
    assert sum(task.prompt != other for task, other in changed) > 150
    longer = [task.style for task, other in changed if len(other) > len(task.prompt) + 30]
    assert longer
    assert set(longer) == {Style.OPEN}
