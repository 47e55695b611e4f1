"""Small length data for tests: tasks with the length of their worked answers, as if by two models."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from envs.answers import token_texts
from envs.tasks import generate
from predictors.embedding import Embedder
from predictors.length.data import Answer, LengthData, from_answers
from predictors.length.train import FastRanker, FastSettings
from predictors.types import Prompt

SMALL = FastSettings(landmarks=24, trees=30, inner_folds=3, repeats=2, least_in_leaf=5, bins=8)
ODD = (
    Prompt(""),
    Prompt("?"),
    Prompt("word " * 4000),
    Prompt("\ud800 ``` | | … Привет 你好 🚂"),
    Prompt("Explain everything in detail.", max_tokens=7),
    Prompt("Explain everything in detail."),
)
PROBES = 40 + len(ODD)


@cache
def embedder() -> Embedder:
    return Embedder()


@cache
def data(count: int = 160, seed: int = 0) -> LengthData:
    """Tasks; the second model is half as verbose and has answered every third one only."""
    tasks = generate(seed, count)
    answers = [Answer(Prompt(task.prompt), "long", len(token_texts(task.worked))) for task in tasks]
    answers += [Answer(a.prompt, "short", 1 + a.output_tokens // 2) for a in answers[::3]]
    return from_answers(answers, "tasks", "Apache-2.0")


@cache
def embeddings(count: int = 160, seed: int = 0) -> NDArray[np.float32]:
    return embedder().embed([prompt.text for prompt in data(count, seed).prompts])


@cache
def probes() -> tuple[tuple[Prompt, ...], NDArray[np.float32]]:
    """Prompts no estimator was fitted on, and some that are hard to read."""
    prompts = (*(Prompt(task.prompt) for task in generate(1, 40, "test")), *ODD)
    return prompts, embedder().embed([prompt.text for prompt in prompts])


@cache
def fast() -> FastRanker:
    return FastRanker(SMALL).fit(data(), embeddings())
