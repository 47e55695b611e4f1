from __future__ import annotations

import numpy as np
import pytest

from envs.answers import TaskAnswerer, TaskBook, token_texts
from envs.tasks import grade
from tests.envs.worlds import PROFILES, SKILL, prompts

BANK = prompts(200)


def test_lengths_and_correctness_are_those_of_a_simulated_worker() -> None:
    book = TaskBook(BANK.tasks)
    for column, (pool, profile) in enumerate(PROFILES.items()):
        answerer = TaskAnswerer(book, profile.name, profile.skill, profile.verbosity)
        for row, task in enumerate(BANK.tasks[:40]):
            texts = answerer.answer(task.prompt)
            assert BANK.output_tokens[row, column] == len(texts)
            assert BANK.correct[row, column] == grade(task, "".join(texts))
            assert BANK.quality[row, column] == SKILL[pool][task.level - 1]


def test_prompts_are_counted() -> None:
    assert BANK.prompt_tokens[0] == len(token_texts(BANK.tasks[0].prompt))
    assert len(BANK) == len(BANK.scores) == 200


def test_the_sample_agrees_with_the_expectation() -> None:
    assert BANK.correct.mean(axis=0) == pytest.approx(BANK.quality.mean(axis=0), abs=0.1)
    assert BANK.quality.dtype == np.float64
