"""Scores within a budget: who waits too long goes on without.

No scoring logic lives here; it is handed in. Where scoring a prompt is cheap, which is measured all the time, it is
done at once, in the event loop: it costs no more than all else that is done there for a request, and a thread would
cost more. Otherwise prompts are scored in batches on a thread. While one batch is being scored the next one gathers,
so a batch is as large as the load makes it, but no larger than can be scored in half the budget, going by the last
ones. Prompts that are still within their budget come before those whose scores would be late.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from controller.types import Scores, TicketId
from predictors.types import Prompt

__all__ = ["Budget", "Scorer", "ScoringDesk"]

_LARGEST_BATCH = 64
_SHARE_OF_BUDGET = 0.5
"""Of the budget, for one batch: a prompt that comes while another batch is scored has to wait for that one as well."""
_MEMORY = 0.8
"""Weight of what was known against the last batch."""
_INLINE_S = 0.0005
"""Prompts that take no more of the processor's time are scored in the event loop …"""
_BACK_S = 0.0015
"""… until they take more than this."""
_MEMORY_OF_WORSE = 0.5
"""Weight of a greater time known before: what is done for the first time takes longer."""
_log = logging.getLogger("headway.scoring")


class Scorer(Protocol):
    """What the predictors say of prompts; pure, safe to call from a thread, and never waiting for anything."""

    def score(self, prompts: Sequence[Prompt], /) -> Sequence[Scores]: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """``seconds`` that a request may wait for its scores."""

    seconds: float = 0.005


class ScoringDesk:
    """Takes prompts in, hands scores out through ``on_scores``, always in the event loop.

    ``on_scores(ticket, None, why)`` comes when the budget is over (``timeout``) or scoring failed (``error``); if the
    scores come after all, ``on_scores`` is called again. ``on_batch(prompts, seconds)`` hears of each batch. Prompts
    for which ``wanted`` says no by then are not scored. ``take`` itself may call ``on_batch`` and ``on_scores``.
    """

    def __init__(
        self,
        scorer: Scorer,
        budget: Budget,
        *,
        clock: Callable[[], float],
        on_scores: Callable[[TicketId, Scores | None, str], None],
        on_batch: Callable[[int, float], None],
        wanted: Callable[[TicketId], bool],
    ) -> None:
        self._scorer = scorer
        self._budget = budget
        self._clock = clock
        self._on_scores = on_scores
        self._on_batch = on_batch
        self._wanted = wanted
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headway-scoring")
        self._gathering: dict[TicketId, Prompt] = {}
        self._seconds_each = 0.0
        self._cpu_each = math.inf
        """Unlike ``_seconds_each`` without waiting for the interpreter, or for other processes."""
        self._cheap = False
        self._busy = False
        self._open: dict[TicketId, None] = {}
        self._deadlines: deque[tuple[float, TicketId]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, ticket: TicketId, prompt: Prompt) -> None:
        """Score this prompt, now or as soon as there is room for it."""
        if self._cheap:
            if self._wanted(ticket):
                self._score_here(ticket, prompt)
            return
        loop = asyncio.get_running_loop()
        self._open[ticket] = None
        self._deadlines.append((loop.time() + self._budget.seconds, ticket))
        if self._timer is None:
            self._timer = loop.call_later(self._budget.seconds, self._expire)
        self._gathering[ticket] = prompt
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next_batch)

    def close(self) -> None:
        """Take no more; a batch under way is left to itself."""
        if self._timer is not None:
            self._timer.cancel()
        self._gathering.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _score_here(self, ticket: TicketId, prompt: Prompt) -> None:
        started = self._clock()
        try:
            scores = self._score([prompt])[0]
        except Exception:
            _log.exception("scoring a prompt failed; it goes on without scores")
            self._on_scores(ticket, None, "error")
            return
        self._on_batch(1, self._clock() - started)
        self._on_scores(ticket, scores, "")

    def _next_batch(self) -> None:
        batch = self._take_batch()
        self._busy = bool(batch)
        if not batch:
            return
        started = self._clock()
        prompts = [self._gathering.pop(ticket) for ticket in batch]
        work = asyncio.get_running_loop().run_in_executor(self._executor, self._score, prompts)
        work.add_done_callback(lambda done: self._scored(batch, started, done))

    def _score(self, prompts: Sequence[Prompt]) -> Sequence[Scores]:
        """In the loop, or on the thread."""
        started = time.thread_time()
        scores = self._scorer.score(prompts)
        each = (time.thread_time() - started) / len(prompts)
        known = self._cpu_each
        keep = (_MEMORY if each > known else _MEMORY_OF_WORSE) ** len(prompts)
        self._cpu_each = each if math.isinf(known) else keep * known + (1 - keep) * each
        self._cheap = self._cpu_each <= (_BACK_S if self._cheap else _INLINE_S)
        return scores

    def _take_batch(self) -> list[TicketId]:
        """Tickets to score now, the oldest first; forgets those that nobody waits for any more."""
        for ticket in [ticket for ticket in self._gathering if not self._wanted(ticket)]:
            del self._gathering[ticket]
        in_time = [ticket for ticket in self._gathering if ticket in self._open]
        return (in_time or list(self._gathering))[: self._batch_size()]

    def _batch_size(self) -> int:
        if self._seconds_each == 0.0:
            return _LARGEST_BATCH
        return min(_LARGEST_BATCH, max(1, int(_SHARE_OF_BUDGET * self._budget.seconds / self._seconds_each)))

    def _scored(self, tickets: list[TicketId], started: float, done: asyncio.Future[Sequence[Scores]]) -> None:
        if done.cancelled():
            return
        took = self._clock() - started
        each = took / len(tickets)
        self._seconds_each = _MEMORY * self._seconds_each + (1 - _MEMORY) * each if self._seconds_each else each
        self._next_batch()
        error = done.exception()
        if error is not None:
            _log.error("scoring %d prompts failed; they go on without scores", len(tickets), exc_info=error)
            for ticket in tickets:
                self._hand_out(ticket, None, "error")
            return
        self._on_batch(len(tickets), took)
        for ticket, scores in zip(tickets, done.result(), strict=True):
            self._hand_out(ticket, scores, "")

    def _hand_out(self, ticket: TicketId, scores: Scores | None, why: str) -> None:
        """Late scores are handed out still; a second ``None`` would say nothing new."""
        in_time = self._open.pop(ticket, _LATE) is not _LATE
        if in_time or scores is not None:
            self._on_scores(ticket, scores, why)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late: list[TicketId] = []
        while self._deadlines and self._deadlines[0][0] <= now + 1e-4:
            late.append(self._deadlines.popleft()[1])
        while self._deadlines and self._deadlines[0][1] not in self._open:
            self._deadlines.popleft()
        self._timer = loop.call_at(self._deadlines[0][0], self._expire) if self._deadlines else None
        for ticket in late:
            if self._open.pop(ticket, _LATE) is not _LATE:
                self._on_scores(ticket, None, "timeout")


_LATE = object()
