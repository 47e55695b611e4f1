"""One request in a live server's hands: how it goes, how it ended, and who hears of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from envs.engines.base import EventKind
from envs.engines.live_answer import LiveAnswer

__all__ = ["Hears", "LiveCall", "Outcome", "Size"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended at the server. ``code`` and ``message`` say why there is no whole answer: an UpstreamError's
    code, ``busy``, ``status_400``, ``cancelled``, …"""

    kind: EventKind
    at: float
    code: str | None = None
    message: str = ""
    retryable: bool = False
    """Whether another server might do better: nothing of the answer was seen, and the request was not at fault."""


@dataclass(frozen=True, slots=True)
class Size:
    """What there is to know of a synthetic request, in tokens. ``prefix`` as in
    :class:`~envs.engines.base.EngineRequest`."""

    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()


class LiveCall:
    """One request in a server's hands."""

    __slots__ = ("answer", "hears", "id", "outcome", "task")

    def __init__(self, call_id: str, hears: Hears, *, keep_text: bool) -> None:
        self.id = call_id
        self.hears = hears
        self.answer = LiveAnswer(keep_text=keep_text)
        self.outcome: Outcome | None = None
        """Once it has ended."""
        self.task: asyncio.Task[None] | None = None


class Hears(Protocol):
    """Who hears how a call goes; called in the event loop, when the bytes arrive."""

    def first_token(self, call: LiveCall) -> None:
        """The answer has begun."""

    def ended(self, call: LiveCall) -> None:
        """``call.outcome`` is there; nothing else follows."""
