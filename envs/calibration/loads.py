"""Loads to put on a worker, and what one of its requests was seen to do. Times in seconds, sizes in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from predictors.latency.campaign import Role, Sample


@dataclass(frozen=True, slots=True)
class Sizes:
    """A request's prompt and answer."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ClosedLoad:
    """``concurrency`` requests kept in flight, each followed by the next at once, ``waves`` times over.

    After ``limit_s`` no further request is sent, so that a slow worker cannot hold the others up.
    """

    name: str
    concurrency: int
    sizes: Sizes
    waves: int
    limit_s: float
    role: Role = Role.FIT

    @property
    def requests(self) -> int:
        """How many are sent if time allows."""
        return self.concurrency * self.waves


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """Requests that leave at their own times, ``at[i]`` seconds from the start."""

    name: str
    at: tuple[float, ...]
    sizes: tuple[Sizes, ...]
    role: Role

    def __post_init__(self) -> None:
        if len(self.at) != len(self.sizes) or not self.at:
            raise ValueError(f"{self.name}: {len(self.at)} times for {len(self.sizes)} requests")


Load = ClosedLoad | OpenLoad


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of a load. ``lateness`` (s) is how late the client itself was: of open loads, how much after its time
    each request left; of every load, how late a timer of the client's fired."""

    samples: Sequence[Sample]
    lateness: Sequence[float] = field(default_factory=tuple)
    seconds: float = 0.0


class Worker(Protocol):
    """Whatever can be put under load: a live server (:mod:`envs.calibration.live`) or a simulated engine."""

    def run(self, load: Load) -> Recorded:
        """Put the load on, and wait for its end. Requests that fail are samples with an error."""
        ...
