"""What the implementations of ``place`` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controller.types import Alternative
from controller.view import WorkerView

SHOWN: Final = 8
"""Alternatives that are written down."""


def least_loaded(workers: Sequence[WorkerView]) -> WorkerView:
    """The least loaded of some workers."""
    if len(workers) == 1:
        return workers[0]
    least = min([worker.load for worker in workers])
    found = [worker for worker in workers if worker.load == least]
    return found[0] if len(found) == 1 else min(found, key=load_key)


def load_key(worker: WorkerView) -> tuple[float, float, int, str]:
    """By load; ties by requests, then by turns, then by name."""
    return worker.load, worker.inflight / worker.limit, worker.dispatched, worker.name


def loads(workers: Sequence[WorkerView]) -> tuple[Alternative, ...]:
    """For the record, of a choice by load."""
    return tuple([Alternative(worker.name, -worker.load) for worker in workers[:SHOWN]])
