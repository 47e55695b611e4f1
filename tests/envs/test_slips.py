"""Wrong answers look like answers and are wrong."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from envs.slips import perturb
from envs.tasks import FAMILY_NAMES, Split, generate, grade, task_at


@given(
    index=st.integers(0, 10**6),
    seed=st.integers(0, 10**6),
    split=st.sampled_from(Split),
    family=st.sampled_from(FAMILY_NAMES),
)
@settings(max_examples=300)
def test_a_perturbed_answer_is_graded_wrong_and_keeps_its_shape(
    index: int, seed: int, split: Split, family: str
) -> None:
    task = task_at(seed, index, split, [family])
    wrong = perturb(task, Random(seed))
    assert not grade(task, wrong)
    assert wrong == perturb(task, Random(seed))
    assert len(wrong.split("\n")) == len(task.worked.split("\n"))
    assert abs(len(wrong) - len(task.worked)) <= max(40, len(task.answer))


def test_an_answer_cut_off_half_way_is_seldom_graded_right() -> None:
    """Never but by chance: the last thing computed may happen to be the answer."""
    tasks = [task for task in generate(3, 1500) if task.worked.count("\n") >= 5]
    halves = ["\n".join(lines[: len(lines) // 2]) for lines in (task.worked.split("\n") for task in tasks)]
    right = sum(grade(task, half) for task, half in zip(tasks, halves, strict=True))
    assert right < 0.05 * len(tasks)
