"""Long replays of a trace under a simple policy, compiled: a million requests a second instead of tens of thousands.

What is decided, and when, is what :class:`envs.fleet.SimFleet` would see the control plane decide with the stages
``fcfs`` and one of :data:`PLACES`, ``prefix`` without homes; see :mod:`envs.engines.kernel.replay` for what is left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from controller.place import PrefixOptions
from controller.settings import ControlSettings
from controller.types import WorkerSpec
from envs.engines.kernel import affinity
from envs.engines.kernel import replay as kernel
from envs.engines.kernel.bank import TOLD_WIDTH, UNKNOWN
from envs.engines.sim import SimEngine, chain_of
from envs.fleet import FleetClock
from envs.workloads import Arrival

__all__ = ["PLACES", "Replayed", "Requests", "replay", "through_one"]

PLACES: Final = {"round_robin": kernel.ROUND_ROBIN, "least_load": kernel.LEAST_LOAD, "prefix": kernel.PREFIX}

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Counts = NDArray[np.int32]
_EVENTS: Final = 256


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of one pool, by columns, in order of arrival."""

    at: Floats
    """(n,) seconds."""
    prompt_tokens: Integers
    output_tokens: Integers
    max_tokens: Integers
    """(n,); 0 where the client set no limit."""
    starts: Integers
    """(n + 1,): where each one's block hashes begin in ``hashes``."""
    hashes: Integers
    prompt_hashes: Integers
    """(n,): how many of its hashes are the prompt's; those of the answer, which follow, only engines know."""

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of(cls, arrivals: Iterable[Arrival]) -> Requests:
        """Columns of arrivals that carry lengths.

        Raises:
            ValueError: one carries a task, whose length no engine knows beforehand, or comes before the one before it.
        """
        rows: list[tuple[float, int, int, int]] = []
        known: list[int] = []
        chains = [chain_of(())]
        for arrival in arrivals:
            if arrival.lengths is None:
                raise ValueError(f"the arrival at {arrival.at} s has no lengths")
            if rows and arrival.at < rows[-1][0]:
                raise ValueError(f"the arrival at {arrival.at} s comes before the one at {rows[-1][0]} s")
            lengths = arrival.lengths
            rows.append((arrival.at, lengths.prompt_tokens, lengths.output_tokens, arrival.max_tokens or 0))
            chains.append(chain_of(lengths.prefix))
            known.append(len(lengths.prompt_prefix))
        at, prompt, output, limit = np.array(rows, dtype=np.float64).reshape(-1, 4).T
        starts = np.cumsum([len(chain) for chain in chains], dtype=np.int64)
        sizes = prompt.astype(np.int64), output.astype(np.int64), limit.astype(np.int64)
        prompts = np.array(known, dtype=np.int64)
        return cls(np.ascontiguousarray(at), *sizes, starts, np.concatenate(chains), prompts)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of each request, (n,); times are absolute, and not a number where there is none.

    ``result`` is one of the constants of :mod:`envs.engines.kernel.replay`; ``worker`` is -1 for one that none took.
    ``samples`` (k, 5): time, tickets queued, requests running and waiting on all engines, mean share of KV blocks held.
    """

    first_token_at: Floats
    ended_at: Floats
    worker: Integers
    output_tokens: Integers
    cached_tokens: Integers
    result: Integers
    samples: Floats

    @property
    def completed(self) -> NDArray[np.bool_]:
        """(n,): whether there was a complete answer."""
        done: NDArray[np.bool_] = self.result == kernel.COMPLETED
        return done


def replay(
    requests: Requests,
    workers: Sequence[tuple[WorkerSpec, SimEngine]],
    place: str,
    *,
    settings: ControlSettings | None = None,
    clock: FleetClock | None = None,
    prefix: PrefixOptions | None = None,
    samples: int = 0,
) -> Replayed:
    """Run the requests on fresh engines of one pool; ``samples`` is how many readings of the gauges to keep at most.

    Raises:
        ValueError: an unknown place, no worker, or more than 62 for ``prefix``.
    """
    if place not in PLACES:
        raise ValueError(f"no compiled policy is called {place!r}; there are {', '.join(PLACES)}")
    if not workers or (place == "prefix" and len(workers) > affinity.MAX_WORKERS):
        raise ValueError(f"{len(workers)} workers; it takes at least 1, and for prefix at most {affinity.MAX_WORKERS}")
    fits = _fits(requests, [engine for _, engine in workers])
    bounds, options = settings or ControlSettings(), prefix or PrefixOptions()
    slots = 2 * max(spec.max_inflight for spec, _ in workers)
    while True:
        slots *= 2
        sizes, times = _account(requests, fits)
        numbers = np.zeros(kernel.QUEUE + len(sizes), dtype=np.int64)
        numbers[[kernel.PLACE, kernel.MAX_QUEUE, kernel.LAST]] = PLACES[place], bounds.max_queue, -1
        seen = np.zeros((samples, kernel.SAMPLE_WIDTH))
        went = not len(sizes) or kernel.replay(
            _bank([engine for _, engine in workers], slots),
            np.full(len(workers), UNKNOWN, dtype=np.int64),
            np.zeros((_EVENTS, TOLD_WIDTH), dtype=np.int64),
            sizes,
            times,
            requests.hashes,
            _desks([spec for spec, _ in workers]),
            numbers,
            _reals(bounds, clock or FleetClock(), options),
            affinity.index(options.capacity_blocks if place == "prefix" else 1),
            seen,
        )
        if went:
            return _spread(sizes, times, fits, seen[: int(numbers[kernel.SAMPLES])])


def through_one(requests: Requests, engine: SimEngine) -> Replayed:
    """Send the requests straight to a fresh engine like this one, each at its time, with no control plane before it."""
    fits = _fits(requests, [engine])
    slots = 256
    while True:
        slots *= 2
        sizes, times = _account(requests, fits)
        sizes[:, kernel.WORKER] = 0
        if kernel.through(engine.fresh_memory(slots), sizes, times, requests.hashes):
            return _spread(sizes, times, fits, np.zeros((0, kernel.SAMPLE_WIDTH)))


def _account(requests: Requests, rows: NDArray[np.bool_]) -> tuple[Counts, Floats]:
    """The requests as the kernel keeps them: their sizes and times, and that nobody has taken them."""
    sizes = np.zeros((int(rows.sum()), kernel.R_WIDTH), dtype=np.int32)
    times = np.full((len(sizes), kernel.T_WIDTH), np.nan)
    sizes[:, kernel.PROMPT] = requests.prompt_tokens[rows]
    sizes[:, kernel.OUTPUT] = requests.output_tokens[rows]
    sizes[:, kernel.MAX_TOKENS] = requests.max_tokens[rows]
    sizes[:, kernel.CHAIN] = requests.starts[:-1][rows]
    sizes[:, kernel.CHAIN_END] = requests.starts[1:][rows]
    sizes[:, kernel.PROMPT_END] = sizes[:, kernel.CHAIN] + requests.prompt_hashes[rows]
    sizes[:, kernel.WORKER] = -1
    times[:, kernel.AT] = requests.at[rows]
    return sizes, times


def _desks(specs: Sequence[WorkerSpec]) -> Integers:
    names = sorted(spec.name for spec in specs)
    desks = np.zeros((len(specs), kernel.W_WIDTH), dtype=np.int64)
    desks[:, kernel.LIMIT] = [spec.max_inflight for spec in specs]
    desks[:, kernel.RANK] = [names.index(spec.name) for spec in specs]
    return desks


def _reals(settings: ControlSettings, clock: FleetClock, prefix: PrefixOptions) -> Floats:
    reals = np.zeros(kernel.F_WIDTH)
    reals[kernel.MEAN_OUTPUT] = settings.default_output_tokens
    reals[kernel.MAX_QUEUE_S] = settings.max_queue_s
    reals[kernel.PROMPT_WORK] = settings.prompt_work
    reals[kernel.REPORT_INTERVAL] = clock.report_interval
    reals[kernel.MIN_MATCH] = prefix.min_match
    reals[kernel.GATE_RATIO] = prefix.gate_ratio
    reals[kernel.GATE_SLACK] = prefix.gate_slack
    return reals


def _bank(engines: Sequence[SimEngine], slots: int) -> Integers:
    """Memories of fresh engines like these, with room for so many requests each."""
    memories = [engine.fresh_memory(slots) for engine in engines]
    bank = np.zeros((len(memories), max(len(memory) for memory in memories)), dtype=np.int64)
    for row, memory in zip(bank, memories, strict=True):
        row[: len(memory)] = memory
    return bank


def _fits(requests: Requests, engines: Sequence[SimEngine]) -> NDArray[np.bool_]:
    longest = min(engine.profile.max_model_len for engine in engines)
    fits: NDArray[np.bool_] = requests.prompt_tokens + requests.output_tokens <= longest
    return fits


def _spread(sizes: Counts, times: Floats, rows: NDArray[np.bool_], samples: Floats) -> Replayed:
    """Outcomes in the places of all requests; those that fit no engine were refused."""

    def whole(column: NDArray[Any], nothing: float) -> NDArray[Any]:
        spread = np.full(len(rows), nothing, dtype=np.int64 if column.dtype == np.int32 else column.dtype)
        spread[rows] = column
        return spread

    return Replayed(
        whole(times[:, kernel.FIRST], np.nan),
        whole(times[:, kernel.END], np.nan),
        whole(sizes[:, kernel.WORKER], -1),
        whole(sizes[:, kernel.TOKENS], 0),
        whole(sizes[:, kernel.CACHED], 0),
        whole(sizes[:, kernel.RESULT], kernel.ENGINE_REFUSED),
        samples,
    )
