"""``remaining``: how many tokens of a running answer are left, by its visible text, every few dozen tokens.

Trees read :data:`~predictors.length.remaining.reader.FEATURES` and what was expected of the prompt; a table says how
long answers with such a score went on; the countdown (:mod:`predictors.length.remaining.filter`) joins that with what
was believed before. Loading reads LightGBM's text format and npz; nothing is pickled.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.artifact import Artifact, ArtifactSchema, load
from predictors.length.model import KIND
from predictors.length.remaining.filter import BINS, LIMIT, capped, expectation, lasting, pooled, quantile, shifted
from predictors.length.remaining.reader import FEATURES, StreamReader
from predictors.length.trees import parse, walk

__all__ = ["EVERY", "SCHEMA", "Outlook", "Remaining", "RemainingLength", "Track"]

SCHEMA: Final[tuple[str, ...]] = ("remaining", "prompt_rank", "expected_tokens", "expected_left", *FEATURES)
TREES_FILE: Final = "trees.txt"
TABLES_FILE: Final = "tables.npz"
EVERY: Final = 40
"""Tokens between two looks at a stream."""
_LASTING: Final = 1 / 3
"""Of an answer longer than those learned from this share of what there is is expected to come, if not more was."""
_HELD: Final = 4096
"""Characters that are held back at most until the next look."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Remaining:
    """Tokens left of a stream after ``tokens`` tokens: expected, and at most with probability 0.1 and 0.9."""

    tokens: int
    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """From a score to a distribution of what is left. ``scores`` (L,) rise; ``log_share`` (L, BINS) are the logarithms
    of the bins' shares at each; between scores they are linear. Of answers longer than ``seen`` tokens too few were
    learned from: what is said of them is a plain rule. ``ranks`` and ``tokens`` (Q,) rise together: the prompt
    ranks of the training data and what was expected of them, for prompts of which only one is known."""

    scores: Floats
    log_share: Floats
    ranks: Floats
    tokens: Floats
    seen: float
    keep: float
    weight: float

    def at(self, score: float) -> Floats:
        """Logarithms of the bins' shares (BINS,)."""
        place = float(np.interp(score, self.scores, np.arange(len(self.scores))))
        low = min(int(place), len(self.scores) - 2)
        part = place - low
        mixed: Floats = (1.0 - part) * self.log_share[low] + part * self.log_share[low + 1]
        return mixed

    def check(self) -> None:
        """Raises ValueError for tables that do not fit together."""
        levels = len(self.scores)
        if levels < 2 or self.log_share.shape != (levels, BINS) or self.ranks.shape != self.tokens.shape:
            raise ValueError(f"log_share must be (L, {BINS}) with L >= 2 scores, and ranks as many as tokens")
        rising = all((np.diff(values) > 0).all() for values in (self.scores, self.ranks, self.tokens))
        finite = all(np.isfinite(v).all() for v in (self.scores, self.log_share, self.ranks, self.tokens))
        if not (rising and finite and len(self.ranks) >= 2):
            raise ValueError("scores, ranks and tokens must be finite and strictly increasing")
        if not (0.0 <= self.keep <= 1.0 and 0.0 < self.weight <= 1.0 and self.seen > 0):
            raise ValueError("keep and weight must be within 0 to 1, and seen positive")


class RemainingLength:
    """The serving half. Immutable; safe to share between threads, while each stream has a :class:`Track` of its own."""

    def __init__(self, trees: str, outlook: Outlook) -> None:
        """``trees`` is LightGBM's text format.

        Raises:
            ArtifactSchema: it is not, or has other columns than :data:`SCHEMA`.
        """
        parsed = parse(trees)
        if parsed is None or f"max_feature_idx={len(SCHEMA) - 2}\n" not in trees:
            raise ArtifactSchema(f"{TREES_FILE} must be LightGBM trees for a regression on {len(SCHEMA) - 1} columns")
        self.outlook = outlook
        self._text = trees
        self._trees = parsed
        self.score(np.zeros(len(FEATURES)), (0.5, 1.0))

    @classmethod
    def load(cls, path: Path) -> RemainingLength:
        """Load and verify an artifact folder.

        Raises:
            ArtifactError: missing, tampered with, or made for other features.
        """
        return cls.from_artifact(load(path, kind=KIND, features=SCHEMA))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> RemainingLength:
        """From files already verified."""
        return cls.from_files({name: artifact.read(name) for name in (TREES_FILE, TABLES_FILE)})

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> RemainingLength:
        """From the bytes of :meth:`export`.

        Raises:
            ArtifactSchema: they do not fit together.
        """
        try:
            with np.load(io.BytesIO(files[TABLES_FILE]), allow_pickle=False) as stored:
                tables: dict[str, Any] = {name: np.asarray(stored[name], dtype=np.float64) for name in _ARRAYS}
                tables |= {name: float(stored[name]) for name in _NUMBERS}
            outlook = Outlook(**tables)
            outlook.check()
            trees = files[TREES_FILE].decode()
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ArtifactSchema(f"not a predictor of what remains: {type(error).__name__}: {error}") from error
        return cls(trees, outlook)

    def export(self) -> dict[str, bytes]:
        """The files of an artifact; :meth:`from_files` gives back a model that predicts the same bits."""
        buffer = io.BytesIO()
        tables = {name: np.asarray(getattr(self.outlook, name)) for name in (*_ARRAYS, *_NUMBERS)}
        np.savez(buffer, allow_pickle=False, **tables)
        return {TREES_FILE: self._text.encode(), TABLES_FILE: buffer.getvalue()}

    def begin(
        self,
        prompt_rank: float | None = None,
        expected_tokens: float | None = None,
        max_tokens: int | None = None,
        every: int = EVERY,
    ) -> Track:
        """Follow a new answer. ``prompt_rank`` (0 to 1) and ``expected_tokens`` are what a length ranker said of its
        prompt, ``max_tokens`` its limit; looks are at least ``every`` tokens apart.

        Raises:
            ValueError: a number is not finite, or a limit not positive.
        """
        if any(value is not None and not np.isfinite(value) for value in (prompt_rank, expected_tokens)):
            raise ValueError("prompt_rank and expected_tokens must be finite numbers, or None where they are not known")
        if every < 1 or (max_tokens is not None and max_tokens < 1):
            raise ValueError("every and max_tokens must be at least 1 token")
        return Track(self, self.prior(prompt_rank, expected_tokens), max_tokens, every)

    def prior(self, prompt_rank: float | None, expected_tokens: float | None) -> tuple[float, float]:
        """Rank and expected tokens of a prompt; what is not known follows from the other, or is the middle."""
        ranks, tokens = self.outlook.ranks, self.outlook.tokens
        if prompt_rank is None and expected_tokens is None:
            prompt_rank = float(np.median(ranks))
        elif prompt_rank is None:
            prompt_rank = float(np.interp(expected_tokens or 0.0, tokens, ranks))
        if expected_tokens is None:
            expected_tokens = float(np.interp(prompt_rank, ranks, tokens))
        return prompt_rank, expected_tokens

    def score(self, features: Floats, prior: tuple[float, float]) -> float:
        """The trees' sum for one look: the logarithm of about how many tokens are left."""
        trees = self._trees
        row = np.concatenate(((*prior, prior[1] - features[0]), features))
        return float(walk(row, trees.nodes, trees.leaves, trees.branches, trees.threshold, trees.value))


class Track:
    """One running answer. ``latest`` is what was last said of it."""

    def __init__(self, model: RemainingLength, prior: tuple[float, float], max_tokens: int | None, every: int) -> None:
        self._model, self._prior, self._every = model, prior, every
        self._most = max_tokens
        self._reader = StreamReader()
        self._held: list[str] = []
        self._size = 0
        self._tokens = 0
        share = np.exp(model.outlook.at(model.score(self._reader.look(0), prior)))
        self._belief: Floats = share / share.sum()
        self.latest = self._say()

    def feed(self, text: str, total_tokens: int) -> Remaining | None:
        """The next piece of the answer, which has ``total_tokens`` tokens with it; an outlook when one is due.

        ``text`` may be empty, as where a tokenizer holds back half a character. A total that is less than one
        already told counts as that one.
        """
        if text:
            self._held.append(text)
            self._size += len(text)
            if self._size > _HELD:
                self._read()
        if total_tokens - self._tokens < self._every:
            return None
        self._read()
        self._belief = self._count_down(total_tokens)
        self._tokens = total_tokens
        self.latest = self._say()
        return self.latest

    def _read(self) -> None:
        self._reader.feed("".join(self._held))
        self._held.clear()
        self._size = 0

    def _count_down(self, tokens: int) -> Floats:
        outlook = self._model.outlook
        if tokens > outlook.seen:
            return lasting(max(self._prior[1] - tokens, tokens * _LASTING))
        before = shifted(self._belief, tokens - self._tokens)
        score = self._model.score(self._reader.look(tokens), self._prior)
        return pooled(before, outlook.at(score), outlook.keep, outlook.weight)

    def _say(self) -> Remaining:
        most = LIMIT if self._most is None else float(max(self._most - self._tokens, 0))
        belief = capped(self._belief, most) if most < LIMIT else self._belief
        said = (expectation(belief), quantile(belief, 0.1), quantile(belief, 0.9))
        return Remaining(self._tokens, *(min(value, most) for value in said))


_ARRAYS: Final = ("scores", "log_share", "ranks", "tokens")
_NUMBERS: Final = ("seen", "keep", "weight")
