"""Stage ``admit``: whether a request is taken."""

from __future__ import annotations

import math

from pydantic import Field

from controller.protocols import AdmitContext, Options, Resources
from controller.types import Rejected

_RETRY_MAX_S = 60.0


class BoundedOptions(Options):
    """Options of ``bounded``."""

    tenant_share: float = Field(1.0, gt=0, le=1)
    """Share of the queue that one tenant may fill; below 1, a flood from one leaves room for the others."""


class Bounded:
    """Admits while the queue is not full: in requests, as a whole and by tenant, and in bytes. One request is always
    let in, however large."""

    name = "bounded"

    def __init__(self, options: BoundedOptions) -> None:
        self._tenant_share = options.tenant_share

    @classmethod
    def create(cls, options: BoundedOptions, resources: Resources) -> Bounded:
        return cls(options)

    def admit(self, context: AdmitContext) -> Rejected | None:
        queued = context.queued
        if queued >= context.max_queue:
            return _full(context, f"the queue is full: {queued} requests wait, {context.max_queue} at most")
        mine = context.queued_by_tenant
        if mine and mine >= (allowed := max(1, math.floor(self._tenant_share * context.max_queue))):
            tenant = context.ticket.tenant
            return _full(context, f"tenant {tenant!r} has {allowed} requests waiting, its share of the queue")
        most = context.max_queue_bytes
        if context.queued_bytes and context.queued_bytes + context.ticket.body_bytes > most:
            return _full(context, f"the queue is full: it holds {context.queued_bytes} bytes, {most} at most")
        return None


def _full(context: AdmitContext, message: str) -> Rejected:
    wait = min(context.view.pool(pool).expected_wait_s for pool in context.pools)
    retry_after = min(_RETRY_MAX_S, max(1.0, math.ceil(wait / 2) if math.isfinite(wait) else _RETRY_MAX_S))
    return Rejected(context.ticket.id, 429, "queue_full", message, retry_after)
