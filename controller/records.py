"""Decision records: kept for the operator in a ring, handed to a writer in batches, flattened into rows."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any
from zlib import crc32

from controller.types import Choice, DecisionRecord, TicketId

_SLACK = 64
_HASHES = 2**32


class RecordLog:
    """Where ended tickets leave their record. Bounded: a writer that is late loses the oldest; the loss is counted.

    Of a ``share`` below 1, only so many tickets have one (see :attr:`ControlSettings.record_share`).
    """

    def __init__(self, recent: int, pending: int, share: float = 1.0) -> None:
        self._recent: deque[DecisionRecord] = deque()
        """At least those to be kept. What is beyond is let go many at a time, which is much cheaper than one by one
        while requests are served."""
        self._kept = recent
        self._pending: deque[DecisionRecord] = deque()
        self._bound = pending
        self.dropped = 0
        """Records that were never drained."""
        self.written = 0
        """Records in all."""
        self.spared = 0
        """Tickets that ended without one, because they were not among the share that is recorded."""
        self._everything = share >= 1.0
        self._below = share * _HASHES

    def wants(self, ticket: TicketId) -> bool:
        """Whether this ticket is among those that are recorded; the same in every run."""
        return self._everything or crc32(ticket.encode("utf-8", "surrogatepass")) < self._below

    def add(self, record: DecisionRecord) -> None:
        """One ticket has ended."""
        self.written += 1
        recent, pending = self._recent, self._pending
        recent.append(record)
        pending.append(record)
        if len(recent) > 2 * self._kept + _SLACK:
            self._trim()
        if len(pending) > self._bound:
            pending.popleft()
            self.dropped += 1

    def drain(self) -> tuple[DecisionRecord, ...]:
        """Every record since the last call, oldest first."""
        drained = tuple(self._pending)
        self._pending.clear()
        self._trim()
        return drained

    def recent(self, limit: int) -> tuple[DecisionRecord, ...]:
        """The last records, newest first."""
        return tuple(islice(reversed(self._recent), max(0, min(limit, self._kept))))

    def find(self, ticket: TicketId) -> DecisionRecord | None:
        """The record of one ticket, if it ended lately."""
        return next((record for record in self.recent(self._kept) if record.ticket == ticket), None)

    def _trim(self) -> None:
        recent = self._recent
        for _ in range(len(recent) - self._kept):
            recent.popleft()


def row(record: DecisionRecord) -> dict[str, Any]:
    """The record as one flat row: plain scalars, and ``choices`` and ``quality`` as lists of mappings.

    The columns are the same for every record. Times stay on the control plane's own clock.
    """
    scores, usage = record.scores, record.usage
    quality = {} if scores is None or scores.quality is None else scores.quality
    return {
        "ticket": record.ticket,
        "tenant": record.tenant,
        "model": record.model,
        "submitted_at": record.submitted_at,
        "prompt_tokens": record.prompt_tokens,
        "max_tokens": record.max_tokens,
        "length_rank": None if scores is None else scores.length_rank,
        "predicted_output_tokens": None if scores is None else scores.output_tokens,
        "quality": [{"pool": pool, "quality": value} for pool, value in quality.items()],
        "choices": [_choice(choice) for choice in record.choices],
        "pool": record.pool,
        "worker": record.worker,
        "attempts": record.attempts,
        "continued": record.continued,
        "dispatched_at": record.dispatched_at,
        "first_token_at": record.first_token_at,
        "finished_at": record.finished_at,
        "result": record.result.value,
        "code": record.code,
        "usage_prompt_tokens": None if usage is None else usage.prompt_tokens,
        "usage_output_tokens": None if usage is None else usage.output_tokens,
        "usage_cached_tokens": None if usage is None else usage.cached_tokens,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    """``dataclasses.asdict`` takes ten times as long, for every request."""
    return {
        "stage": choice.stage,
        "by": choice.by,
        "chosen": choice.chosen,
        "alternatives": tuple(
            [{"name": a.name, "score": a.score, "eligible": a.eligible, "why": a.why} for a in choice.alternatives]
        ),
        "propensity": choice.propensity,
        "fallback": choice.fallback,
        "features": choice.features,
        "artifact": choice.artifact,
    }
