"""Token counts that are not known yet: of a prompt from its characters, of an answer from the answers before it.

Both are running averages per pool, with exponential forgetting, so that they follow a change of traffic or tokenizer.
"""

from __future__ import annotations

from math import ceil

from controller.types import Ticket

_MEMORY = 200.0
"""Observations that an average remembers, about."""


class PromptCounter:
    """Characters per token of one pool's prompts, learned from the counts its workers report."""

    __slots__ = ("_chars", "_tokens")

    def __init__(self, chars_per_token: float) -> None:
        if not chars_per_token > 0:
            raise ValueError(f"chars_per_token must be positive, not {chars_per_token}")
        prior_tokens = 500.0
        self._tokens = prior_tokens
        self._chars = prior_tokens * chars_per_token

    @property
    def chars_per_token(self) -> float:
        """The ratio as learned so far."""
        return self._chars / self._tokens

    def count(self, ticket: Ticket) -> int:
        """Prompt tokens: the exact number where the ticket has it, else an estimate, rounded up."""
        counted = ticket.prompt_tokens
        if counted is not None:
            return counted
        return ceil(ticket.prompt_chars * self._tokens / self._chars)

    def observe(self, chars: int, tokens: int) -> None:
        """A worker counted ``tokens`` in a prompt of ``chars`` characters."""
        if chars <= 0 or tokens <= 0:
            return
        keep = 1.0 - 1.0 / _MEMORY
        self._chars = self._chars * keep + chars
        self._tokens = self._tokens * keep + tokens


class OutputEstimator:
    """Expected output tokens of one pool's answers.

    Where a predictor gave an expectation, it is corrected by this pool's ratio of actual to predicted (pools differ in
    verbosity, a predictor trained on many models does not know which one answers); elsewhere the running mean stands
    in.
    """

    __slots__ = ("_actual", "_predicted", "mean")

    def __init__(self, initial: float) -> None:
        if not initial > 0:
            raise ValueError(f"the expected output must be positive, not {initial}")
        self.mean = initial
        """Output tokens of a typical answer."""
        self._actual = 10.0 * initial
        self._predicted = 10.0 * initial

    def expect(self, predicted: float | None, max_tokens: int | None) -> int:
        """Output tokens to expect, at least 1, at most ``max_tokens``."""
        tokens = self.mean if predicted is None else predicted * self._actual / self._predicted
        if max_tokens is not None and tokens > max_tokens:
            tokens = max_tokens
        expected = round(tokens)
        return expected if expected > 1 else 1

    def observe(self, predicted: float | None, actual: int) -> None:
        """A complete answer had ``actual`` tokens where ``predicted`` were expected by the predictor."""
        self.mean += (actual - self.mean) / 50.0
        if predicted is not None and predicted > 0:
            keep = 1.0 - 1.0 / _MEMORY
            self._actual = self._actual * keep + actual
            self._predicted = self._predicted * keep + predicted
