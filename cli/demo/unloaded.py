"""What a pool answers when nothing waits: the whole workload's prompts, a few at a time, without a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstream.chat import Exchange
    from upstream.client import Client

__all__ = ["Unloaded", "Worded", "ask_unloaded"]


@dataclass(frozen=True, slots=True)
class Worded:
    """A request without its time: the body to send, and how its answer is judged."""

    body: dict[str, Any]
    grade: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A pool's answers in the order of the prompts. ``seconds`` is how long all of them took together."""

    correct: tuple[bool, ...]
    output_tokens: tuple[int, ...]
    cut: int
    """Answers that ``max_tokens`` ended."""
    failed: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """For the report's settings."""
        answers = max(1, len(self.correct))
        return {
            "quality": sum(self.correct) / answers,
            "output_tokens_mean": sum(self.output_tokens) / answers,
            "cut": self.cut,
            "failed": self.failed,
            "seconds": self.seconds,
        }


async def ask_unloaded(
    client: Client, url: str, model: str, questions: Sequence[Worded], *, at_once: int, on_end: Callable[[], None]
) -> Unloaded:
    """Ask the worker at ``url`` every question, ``at_once`` at a time; ``on_end`` is called at each answer."""
    from upstream.chat import ask
    from upstream.types import Timeouts

    seats = asyncio.Semaphore(at_once)

    async def one(question: Worded) -> Exchange:
        async with seats:
            exchange = await ask(
                client,
                f"{url}/v1/chat/completions",
                {**question.body, "model": model},
                timeouts=Timeouts(total=120.0),
            )
        on_end()
        return exchange

    loop = asyncio.get_running_loop()
    started = loop.time()
    exchanges = await asyncio.gather(*map(one, questions))
    return Unloaded(
        correct=tuple(e.error is None and q.grade(e.text) for q, e in zip(questions, exchanges, strict=True)),
        output_tokens=tuple(exchange.output_tokens or 0 for exchange in exchanges),
        cut=sum(exchange.finish_reason == "length" for exchange in exchanges),
        failed=sum(exchange.error is not None for exchange in exchanges),
        seconds=loop.time() - started,
    )
