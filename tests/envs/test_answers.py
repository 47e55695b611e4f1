"""Simulated answers: repeatable, as skilled and as long as asked, and honest about prompts they do not know."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.answers import TaskAnswerer, TaskBook, at_length, token_texts
from envs.tasks import FAMILY_NAMES, Style, generate, grade

BOOK = TaskBook.generated(1, 800)
TASKS = generate(1, 800, "test")


def answerer(level_skills: tuple[float, ...] = (0.9, 0.6, 0.3, 0.0), **changes: object) -> TaskAnswerer:
    settings = {"book": BOOK, "model": "m", "skill": dict.fromkeys(FAMILY_NAMES, level_skills), **changes}
    return TaskAnswerer(**settings)  # type: ignore[arg-type]


@given(st.text())
def test_token_texts_join_to_the_text(text: str) -> None:
    assert "".join(token_texts(text)) == text


def test_a_book_finds_prompts_whatever_their_white_space() -> None:
    task = TASKS[0]
    assert len(BOOK) == 800
    assert BOOK.find(task.prompt) == task
    assert BOOK.find(f"  {task.prompt}\n") == task
    assert BOOK.find("What is love?") is None


def test_the_share_of_right_answers_follows_the_skill_table() -> None:
    model = answerer()
    for level, skill in enumerate((0.9, 0.6, 0.3, 0.0), 1):
        graded = [grade(t, "".join(model.answer(t.prompt))) for t in TASKS if t.level == level]
        assert abs(sum(graded) / len(graded) - skill) < 0.1
        assert graded == [model.is_right(t) for t in TASKS if t.level == level]


def test_answers_repeat_and_differ_between_models_and_seeds() -> None:
    right = [answerer().is_right(t) for t in TASKS]
    assert right == [answerer().is_right(t) for t in TASKS]
    assert right != [answerer(model="other").is_right(t) for t in TASKS]
    assert right != [answerer(seed=1).is_right(t) for t in TASKS]
    assert answerer().answer(TASKS[3].prompt) == answerer().answer(TASKS[3].prompt)


def test_a_family_without_skill_is_answered_wrongly() -> None:
    model = answerer(skill={})
    assert not any(grade(t, model.answer_to(t)) for t in TASKS[:50])


@pytest.mark.parametrize("verbosity", [0.3, 0.7, 1.5, 3.0])
def test_verbosity_scales_worked_answers_and_keeps_them_right(verbosity: float) -> None:
    model = answerer((1.0,) * 4, verbosity=verbosity)
    long = [t for t in TASKS if t.style in (Style.STEPS, Style.CHECKED) and t.worked.count("\n") > 5]
    assert all(grade(t, model.answer_to(t)) for t in TASKS)
    ratios = [len(token_texts(model.answer_to(t))) / len(token_texts(t.worked)) for t in long]
    assert median(ratios) == pytest.approx(verbosity, rel=0.3)


def test_an_answer_is_cut_at_max_tokens() -> None:
    task = max(TASKS, key=lambda t: len(t.worked))
    assert answerer().answer(task.prompt, 7) == answerer().answer(task.prompt)[:7]


def test_unknown_prompts_get_filler_of_varying_repeatable_length() -> None:
    model = answerer()
    lengths = [len(model.answer(f"Tell me about number {i}.")) for i in range(400)]
    assert lengths == [len(model.answer(f"Tell me about number {i}.")) for i in range(400)]
    assert 90 < median(lengths) < 160
    assert max(lengths) > 5 * median(lengths) > 25 * min(lengths)


def test_a_bare_answer_has_no_steps_to_leave_out() -> None:
    assert at_length("42", 0.1) == "42"
    assert at_length("a\nb\nAnswer: 1", 0.5).endswith("Answer: 1")
