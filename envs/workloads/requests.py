"""A request at a time: what every workload and every trace is a stream of."""

from __future__ import annotations

from dataclasses import dataclass

from envs.tasks import Task

PREFIX_BLOCK = 512
"""Tokens per block of a prefix where nothing else is said: Mooncake's block."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A request known by its sizes alone, as traces have it.

    ``prefix`` is a chain of block hashes: one for each *full* block of ``prefix_block`` tokens of the prompt and, where
    it is known, on into the answer. Hashes beyond the prompt's own full blocks stand for what the answer will have
    written, which a later turn's prompt contains. Two requests share exactly the blocks at which their chains agree
    from the start.
    """

    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    prefix_block: int = PREFIX_BLOCK

    @property
    def prompt_prefix(self) -> tuple[int, ...]:
        """The part of ``prefix`` that lies in the prompt: what a cache can already hold when the request comes."""
        return self.prefix[: self.prompt_tokens // self.prefix_block]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at a time. It carries a task to be asked, or lengths to be simulated."""

    at: float
    """Seconds from the start of the workload."""
    task: Task | None = None
    lengths: Lengths | None = None
    tenant: str = "default"
    max_tokens: int | None = None
    deadline_s: float | None = None
    """Seconds after ``at`` by which the answer is wanted in full."""
    session: str | None = None
    """Which conversation this is a turn of, where that is known."""
