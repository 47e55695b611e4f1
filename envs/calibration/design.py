"""Which loads tell a profile's constants apart, and which judge it.

Closed loops of equal requests go in lockstep, so that a batch of known size and context can be timed: concurrency
tells ``c`` and ``d`` from ``a``, prompts alone tell ``b``, and neighbours of the batch sizes that CUDA graphs are
captured for (multiples of eight, by vLLM's default) show whether a step's time jumps there. Open loops have what real
traffic has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from envs.calibration.loads import ClosedLoad, OpenLoad, Sizes
from predictors.latency.campaign import Role

_GRAPH_NEIGHBOURS: Final = (15, 16, 17, 24, 25, 32, 33)
_MOST_REQUESTS: Final = 3000
_FEWEST_REQUESTS: Final = 24


@dataclass(frozen=True, slots=True)
class Scale:
    """What the server can hold. ``max_model_len`` bounds prompt and answer together, in tokens."""

    max_num_seqs: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Part:
    """An open load to be: its share of the time for open loads, and of the rate that the worker can bear."""

    name: str
    role: Role
    load: float
    time: float
    burst: bool = False


OPEN_PARTS: Final = (
    Part("open_fit_mid", Role.FIT, load=0.45, time=0.26),
    Part("open_fit_low", Role.FIT, load=0.2, time=0.16),
    Part("holdout_high", Role.HOLDOUT, load=0.65, time=0.22),
    Part("holdout_low", Role.HOLDOUT, load=0.3, time=0.18),
    Part("holdout_burst", Role.HOLDOUT, load=0.25, time=0.18, burst=True),
)


def closed_loads(scale: Scale, limit_s: float) -> list[ClosedLoad]:
    """The closed loops, the most telling ones first; none asks for more than the server holds."""
    base = [(n, 512, 128, 4 if n == 1 else 2) for n in (1, 8, 32, 128, 256)]
    prompts = [(1, p, 16, 6) for p in (32, 1024, 2048, 4096, 256, 700)]
    contexts = [(16, 2048, 128, 2), (64, 1024, 128, 2), (4, 4096, 96, 2)]
    neighbours = [(n, 32, 96, 2) for n in _GRAPH_NEIGHBOURS]
    loads: dict[str, ClosedLoad] = {}
    for concurrency, prompt, output, waves in (*base, *prompts, *contexts, *neighbours):
        sizes = _fitting(Sizes(prompt, output), scale.max_model_len)
        if concurrency <= scale.max_num_seqs:
            name = f"closed_{concurrency}x{sizes.prompt_tokens}p{sizes.output_tokens}"
            loads.setdefault(name, ClosedLoad(name, concurrency, sizes, waves, limit_s))
    return list(loads.values())


def _fitting(sizes: Sizes, max_model_len: int) -> Sizes:
    output = max(1, min(sizes.output_tokens, max_model_len // 4))
    return Sizes(max(1, min(sizes.prompt_tokens, max_model_len - output - 8)), output)


def conversation(rng: np.random.Generator, count: int, max_model_len: int) -> list[Sizes]:
    """Sizes like a chat service's: log-normal, prompts of about 1,000 tokens and answers of about 210 in the mean."""
    most = max(1, min(1000, max_model_len // 4))
    prompts = np.clip(rng.lognormal(np.log(750.0), 0.8, count), 8, max(8, max_model_len - most - 8))
    outputs = np.clip(rng.lognormal(np.log(150.0), 0.8, count), 2, most)
    return [Sizes(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)]


def open_load(
    part: Part, bearable: float, seconds: float, scale: Scale, seed: int, trace: Sequence[Sizes] = ()
) -> OpenLoad:
    """An open load at its share of the ``bearable`` rate (requests/s), for its share of ``seconds``.

    Arrivals are Poisson's; a burst has half of its requests at one moment, up to the server's seats. Sizes are the
    trace's in its order, as long as it lasts, else those of :func:`conversation`.
    """
    rng = np.random.default_rng((seed, OPEN_PARTS.index(part)))
    rate = part.load * bearable
    count = int(np.clip(rate * part.time * seconds, _FEWEST_REQUESTS, _MOST_REQUESTS))
    at = np.cumsum(rng.exponential(1.0 / rate, count))
    at -= at[0]
    if part.burst:
        size = min(count // 2 + 1, scale.max_num_seqs)
        begin = count // 4
        at[begin : begin + size] = at[begin]
        at[begin + size :] -= at[min(begin + size, count - 1)] - at[begin] - 1.0 / rate
    sizes = list(trace[:count]) or conversation(rng, count, scale.max_model_len)
    sizes = [_fitting_trace(one, scale.max_model_len) for one in sizes]
    return OpenLoad(part.name, tuple(at[: len(sizes)].tolist()), tuple(sizes), part.role)


def _fitting_trace(sizes: Sizes, max_model_len: int) -> Sizes:
    output = max(1, min(sizes.output_tokens, max_model_len // 2))
    return Sizes(max(1, min(sizes.prompt_tokens, max_model_len - output - 8)), output)
