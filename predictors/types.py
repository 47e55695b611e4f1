"""What every predictor reads, and how every measured figure is written down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as a predictor sees it: what the client sent, never what came back.

    ``text`` is the prompt (for a chat, what the user said last), ``max_tokens`` the client's own limit on the
    answer in tokens, ``turns`` the number of messages the user has sent so far.
    """

    text: str
    max_tokens: int | None = None
    turns: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval, in the estimate's own unit."""

    value: float
    lo: float
    hi: float
