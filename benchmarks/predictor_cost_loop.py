"""How long the event loop is held up by scoring prompts and reading streams: see :mod:`benchmarks.predictor_cost`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.predictor_cost_of import chunks

if TYPE_CHECKING:
    from controller.scoring import Scorer
    from controller.types import Scores
    from predictors.types import Prompt

__all__ = ["burst", "streams"]

_BEAT_S: Final = 0.001
_SWITCH_S: Final = 0.0001
"""As ``headway serve`` sets it."""
_STREAMS: Final = 256
_TOKENS_PER_S: Final = 40.0
_SECONDS: Final = 3.0
_WARM: Final = 50


class _Heart:
    """Beats each millisecond; ``late`` are the seconds by which it came late, ``spent`` those in which the loop's own
    thread was at work since the beat before: other programs delay the one, and not the other."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.spent: list[float] = []

    async def beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, began = loop.time() + _BEAT_S, time.thread_time()
            await asyncio.sleep(_BEAT_S)
            self.late.append(loop.time() - due)
            self.spent.append(time.thread_time() - began)


async def _during(work: Callable[[], Awaitable[Mapping[str, float]]]) -> dict[str, float]:
    """Milliseconds that the heart came late, and what the work tells."""
    heart = _Heart()
    task = asyncio.create_task(heart.beat())
    await asyncio.sleep(0.02)
    heart.late.clear()
    heart.spent.clear()
    told = await work()
    await asyncio.sleep(0.005)
    task.cancel()
    late = 1e3 * np.array(heart.late)
    return {
        "stall_ms_max": float(late.max()),
        "stall_cpu_ms_max": 1e3 * max(heart.spent),
        "late_ms_p99": float(np.quantile(late, 0.99)),
        **told,
    }


class _Nobody:
    """A scorer that says nothing: what the desk itself costs."""

    def score(self, prompts: Sequence[Prompt], /) -> Sequence[Scores]:
        from controller.types import Scores

        return [Scores() for _ in prompts]


def _scorer() -> Scorer:
    from benchmarks.predictor_cost_of import shipped
    from controller.scoring import Scorer
    from predictors.embedding import Embedder
    from predictors.length.model import FastLength
    from predictors.quality.model import KnnQuality

    quality = KnnQuality.load(shipped("quality/llmrouter"))
    pools = {model: model for model in quality.models_[:3]}
    return Scorer(Embedder(), FastLength.load(shipped("length/fast")), quality, pools)


def burst(texts: Sequence[str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """All prompts come in the same turn of the loop, each as a request of its own; ``ms_all`` until all have scores.

    A gateway takes requests ``in turns``; without, whatever comes in one turn is scored in it.
    """
    sys.setswitchinterval(_SWITCH_S)
    found: dict[str, list[dict[str, float]]] = {}
    scorer = _scorer()
    for how, asked, paced in (
        ("unscored", _Nobody(), False),
        ("scored at once", scorer, False),
        ("scored in turns", scorer, True),
    ):
        found[how] = [asyncio.run(_burst(asked, texts, paced)) for _ in range(rounds)]
    return found


async def _burst(scorer: Scorer | _Nobody, texts: Sequence[str], paced: bool) -> dict[str, float]:
    from gateway.scoring import Budget, ScoringDesk
    from gateway.turns import Turns
    from predictors.types import Prompt

    scored: set[str] = set()
    unscored = 0
    everything = asyncio.Event()
    wanted = {str(i) for i in range(len(texts))}

    def on_scores(ticket: str, scores: Scores | None, why: str) -> None:
        nonlocal unscored
        unscored += scores is None and ticket in wanted
        scored.add(ticket)
        if scored >= wanted:
            everything.set()

    desk = ScoringDesk(
        scorer, Budget(), clock=time.monotonic, on_scores=on_scores, on_batch=lambda _, __: None, wanted=lambda _: True
    )
    for i in range(_WARM):  # until the desk knows what it costs
        desk.take(f"warm-{i}", Prompt(texts[i % len(texts)][::-1]))
        await asyncio.sleep(0.002)

    turns = Turns()

    async def ask(number: int, text: str) -> None:
        if paced and turns.over:
            await turns.next()
        began = time.perf_counter()
        desk.take(str(number), Prompt(text))
        turns.spend(time.perf_counter() - began)

    async def work() -> Mapping[str, float]:
        started = time.perf_counter()
        await asyncio.gather(*(ask(i, text) for i, text in enumerate(texts)))
        await everything.wait()
        return {"ms_all": 1e3 * (time.perf_counter() - started), "unscored": float(unscored)}

    try:
        return await _during(work)
    finally:
        desk.close()


def streams(rounds: int) -> dict[str, list[dict[str, float]]]:
    """Streams at their pace; ``us_token`` is the processor's time of the whole process for a token."""
    sys.setswitchinterval(_SWITCH_S)
    text = chunks(
        "Here are five ways to begin. First, read all of it. Then write a little, and look at it again. " * 60
    )
    return {
        how: [asyncio.run(_streams(text, reads)) for _ in range(rounds)]
        for how, reads in (("unread", False), ("read", True))
    }


async def _streams(events: Sequence[bytes], reads: bool) -> dict[str, float]:
    from benchmarks.predictor_cost_of import shipped
    from gateway.remaining import EVERY, OUTCOMES, RemainingDesk
    from gateway.stream import StreamMeter
    from predictors.length.remaining.model import RemainingLength

    counts = dict.fromkeys(OUTCOMES, 0)

    def count(outcome: str) -> None:
        counts[outcome] += 1

    desk = RemainingDesk(
        RemainingLength.load(shipped("length/remaining")),
        tell=lambda *_: None,
        count={outcome: partial(count, outcome) for outcome in OUTCOMES},
    )

    async def run(number: int) -> None:
        meter, listener = StreamMeter(drop_usage=True), desk.listen(str(number), 0.5, 300.0, None) if reads else None
        await asyncio.sleep(number / _STREAMS * EVERY / _TOKENS_PER_S)
        for i in range(int(_SECONDS * _TOKENS_PER_S)):
            passed = meter.feed(events[i % len(events)])
            if listener is not None:
                listener.hear(passed, meter.tokens)
            await asyncio.sleep(1.0 / _TOKENS_PER_S)

    async def work() -> Mapping[str, float]:
        started = time.process_time()
        await asyncio.gather(*(run(number) for number in range(_STREAMS)))
        tokens = _STREAMS * int(_SECONDS * _TOKENS_PER_S)
        spent = 1e6 * (time.process_time() - started) / tokens
        return {"us_token": spent, **{name: float(n) for name, n in counts.items()}}

    try:
        return await _during(work)
    finally:
        desk.close()
