"""What the workers themselves say of their models, so that a listing does not promise more than they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from controller.types import PoolName
from gateway.driver import Clock
from upstream.errors import UpstreamError
from upstream.types import Timeouts
from upstream.vllm import VllmClient

__all__ = ["TIMEOUTS", "WorkerCards"]

TIMEOUTS: Final = Timeouts(connect=0.5, first_byte=1.0, idle=1.0, total=1.0)
"""A listing does not wait longer for a worker."""
_FRESH_S: Final = 30.0
_log = logging.getLogger("headway.models")


class WorkerCards:
    """Asks one ready worker of each pool, at most every 30 seconds. ``askers`` finds them."""

    def __init__(self, askers: Callable[[], Mapping[PoolName, VllmClient]], clock: Clock) -> None:
        self._askers = askers
        self._clock = clock
        self._asked_at = float("-inf")
        self._known: dict[PoolName, Mapping[str, int]] = {}

    async def contexts(self) -> Mapping[PoolName, Mapping[str, int]]:
        """Pool → model → the longest context that its worker takes, in tokens. Workers that do not tell are left out,
        or as they were."""
        now = self._clock()
        if now - self._asked_at >= _FRESH_S:
            self._asked_at = now
            await asyncio.gather(*(self._ask(pool, client) for pool, client in self._askers().items()))
        return self._known

    async def _ask(self, pool: PoolName, client: VllmClient) -> None:
        try:
            told = await client.models()
        except (UpstreamError, ValueError, KeyError) as error:
            _log.info("pool %s: its worker does not list its models: %s", pool, error)
            return
        self._known[pool] = {card.id: card.context_length for card in told if card.context_length}
