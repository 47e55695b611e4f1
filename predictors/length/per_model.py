"""From a score that is good for any model to the lengths of one model's answers: a monotone map, learned as it runs.

Models agree on the order of prompts and differ in how much they write, so a pool needs no ranker of its own, only the
curves of :mod:`predictors.length.quantiles` through its own (rank, tokens).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from predictors.length.quantiles import Curves, fit_curves

__all__ = ["PerModelMap"]

Matrix = NDArray[np.float64]
_KNOTS: Final = ("rank", "log_tokens", "log_high", "log_tail")


class PerModelMap:
    """Keeps the latest ``memory`` answers of one model, and the curves through them. Not safe to share between threads.

    ``pieces`` is how many pieces the ranks are cut into at most; curves are fitted anew when a fortieth of the memory
    has been replaced, or it has grown by a quarter.
    """

    def __init__(self, memory: int = 2000, pieces: int = 8) -> None:
        if memory < 1 or pieces < 1:
            raise ValueError(f"memory and pieces are at least 1, not {memory} and {pieces}")
        self.memory = memory
        self.pieces = pieces
        self._pairs = np.zeros((memory, 2))
        self._seen = 0
        self._fitted_at = 0
        self._curves: Curves | None = None

    def __len__(self) -> int:
        return min(self._seen, self.memory)

    @property
    def curves(self) -> Curves | None:
        """What it predicts by; ``None`` before the first answer."""
        return self._curves

    def fit(self, ranks: Matrix, tokens: Matrix) -> Self:
        """Learn from answers (n,), forgetting all others; of more than ``memory``, the latest.

        Raises:
            ValueError: there is none, or one is not a finite number of tokens >= 0 at a finite rank.
        """
        pairs = np.column_stack([ranks, tokens]).astype(np.float64)[-self.memory :]
        if not len(pairs) or not np.isfinite(pairs).all() or (pairs[:, 1] < 0).any():
            raise ValueError("a map needs at least one answer, at finite ranks with finite tokens >= 0")
        self._pairs[: len(pairs)] = pairs
        self._seen = len(pairs)
        self._refit()
        return self

    def observe(self, rank: float, tokens: float) -> None:
        """One more answer.

        Raises:
            ValueError: it is not a finite number of tokens >= 0 at a finite rank.
        """
        if not (np.isfinite(rank) and np.isfinite(tokens) and tokens >= 0):
            raise ValueError(f"an answer has a finite rank and finite tokens >= 0, not {rank} and {tokens}")
        self._pairs[self._seen % self.memory] = rank, tokens
        self._seen += 1
        if self._seen - self._fitted_at > max(0, min(self._fitted_at // 4, self.memory // 40)):
            self._refit()

    def predict(
        self, ranks: Matrix, limits: Sequence[int | None] | None = None
    ) -> tuple[Matrix, Matrix, Matrix] | None:
        """Expected tokens, 0.9 quantile and tail (n,) of this model's answers, under limits in tokens; ``None`` before
        the first answer."""
        if self._curves is None:
            return None
        most = np.inf if limits is None else np.array([limit or np.inf for limit in limits], dtype=np.float64)
        return self._curves.at(np.asarray(ranks, dtype=np.float64), most)

    def export(self) -> bytes:
        """As JSON; :meth:`load` gives back a map that predicts the same bits and learns on in the same way."""
        kept = {name: getattr(self._curves, name).tolist() for name in _KNOTS} if self._curves else None
        state: dict[str, Any] = {"memory": self.memory, "pieces": self.pieces, "seen": self._seen}
        state |= {"fitted_at": self._fitted_at, "pairs": self._pairs[: len(self)].tolist(), "curves": kept}
        return json.dumps(state, allow_nan=False).encode()

    @classmethod
    def load(cls, encoded: bytes) -> Self:
        """The inverse of :meth:`export`.

        Raises:
            ValueError: it is not a map.
        """
        try:
            state = json.loads(encoded)
            found = cls(int(state["memory"]), int(state["pieces"]))
            found._seen, found._fitted_at = int(state["seen"]), int(state["fitted_at"])
            pairs = np.asarray(state["pairs"], dtype=np.float64).reshape(-1, 2)
            found._pairs[: len(pairs)] = pairs
            if len(pairs) != len(found) or not np.isfinite(pairs).all():
                raise ValueError("its answers are not as many as it says, or not finite")
            if state["curves"] is not None:
                found._curves = Curves(**{name: np.asarray(state["curves"][name], dtype=float) for name in _KNOTS})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a map from ranks to tokens: {type(error).__name__}: {error}") from error
        return found

    def _refit(self) -> None:
        pairs = self._pairs[: len(self)]
        self._curves = fit_curves(pairs[:, 0], pairs[:, 1], np.arange(len(pairs)), self.pieces)
        self._fitted_at = self._seen
