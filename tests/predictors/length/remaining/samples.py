"""Made-up answers whose text says how far they have come, and a model that learned from them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import DataSource
from predictors.length.remaining.data import Answers
from predictors.length.remaining.train import RemainingLearner, RemainingSettings
from predictors.types import Prompt

SMALL = RemainingSettings(trees=60, inner_folds=3, least_in_leaf=10)
ODD = (
    "",
    "\n",
    "plain words without any structure at all " * 40,
    "```python\ndef f(x):\n    return [x * {1: 2}[1]]\n```\n\nThat is all.",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n**Done**",
    "# 标题\n\n这里有三个原因。第一，天气很好。\n1、苹果\n2、香蕉\n总之，希望这能帮到你！",
    "\ud800 … Привет 🚂\r\n~~~\r\nx\r\n",
    "x" * 3000,
    "Here are 3 ways:\n\n1. **One**: do this.\n2. Two\n3) Three\n\nIn conclusion, I hope this helps!",
)
"""Texts that are hard to read."""


@cache
def answers(count: int = 120, seed: int = 0) -> Answers:
    """Lists that announce how many items they have, then have them, and close; two models, one more verbose."""
    rng = np.random.default_rng(seed)
    texts = []
    for i in range(count):
        items = int(rng.integers(2, 13))
        words = 12 if i % 2 else 20
        body = "\n".join(f"{n}. {' '.join(rng.choice(_WORDS, words))}." for n in range(1, items + 1))
        texts.append(f"Here are {items} ways to do it:\n\n{body}\n\nIn conclusion, I hope this helps.")
    tokens = np.array([len(text.split()) for text in texts], dtype=np.int64)
    groups = tuple(f"prompt {i // 2}" for i in range(count))
    prompts = tuple(Prompt(group) for group in groups)
    source = DataSource("made", "Apache-2.0", "0" * 64, count)
    return Answers(prompts, groups, tuple("ab"[i % 2] for i in range(count)), tuple(texts), tokens, source)


@cache
def learner() -> RemainingLearner:
    made = answers()
    ranks, expected = blind(len(made))
    return RemainingLearner(SMALL).fit(made, ranks, expected)


def blind(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks and expected tokens that have nothing to do with the answers."""
    ranks = np.random.default_rng(7).random(count)
    return ranks, 60.0 + 80.0 * ranks


_WORDS = [
    "take",
    "the",
    "long",
    "road",
    "first",
    "and",
    "then",
    "a",
    "short",
    "rest",
    "before",
    "you",
    "go",
    "home",
    "with",
    "them",
    "again",
]
