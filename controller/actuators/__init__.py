"""Bringing replicas up and down, behind one protocol: whatever starts a worker, the reconciler speaks to it alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from controller.types import PoolName, WorkerName, WorkerSpec


@dataclass(frozen=True, slots=True)
class Exit:
    """A worker ended that nobody had stopped."""

    worker: WorkerName
    pool: PoolName
    code: int | None
    """Exit status of the process, negative for a signal; ``None`` where that cannot be known."""
    log: str
    """The last lines it wrote."""


class Actuator(Protocol):
    """Starts and stops workers. Methods may be called for several workers at once."""

    @property
    def pools(self) -> frozenset[PoolName]:
        """The pools it can start workers for."""

    async def launch(self, pool: PoolName) -> WorkerSpec:
        """Begin to start a worker and say where it will be; it does not serve yet.

        Raises :class:`controller.errors.ActuatorError`.
        """

    async def ready(self, worker: WorkerName) -> None:
        """Return once the launched worker is healthy.

        Raises :class:`controller.errors.StartFailed`, with the worker gone, if it ended or took too long.
        """

    async def stop(self, worker: WorkerName) -> None:
        """End a worker, kindly first; returns when nothing of it is left. A worker that is gone already is no error."""

    def exits(self) -> tuple[Exit, ...]:
        """Workers that were ready and have ended by themselves since this was last asked."""

    async def close(self) -> None:
        """Stop every worker that was launched."""
