"""Where a fit begins: a profile read off measured requests directly, without a simulator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from predictors.latency.campaign import Limits
from predictors.latency.measurements import Floats, Measurements
from predictors.latency.model import Profile

_SEQS: Final = 256
_BATCHED: Final = 8192
_BLOCK: Final = 16
"""What a server is taken to have been started with: vLLM's on a data-centre GPU, but for ``max_num_seqs``, which is
what servers are usually given."""
_GRAPH_TOKENS: Final = 512
_LEAST: Final = {"b": 2e-7, "c": 1e-6, "d": 1e-10, "overhead": 5e-4}
"""Seconds. A guess of zero would stay zero."""
_OVERLAPS: Final = (0.1, 0.8)
"""Of ``a``: reading the weights is most of it where a model is big, launching kernels where it is small."""
_MIXED: Final = 2.0
"""Of ``a``."""
_WIDE: Final = 0.002
"""Of ``a``, a sequence."""
_WIDE_BATCH: Final = 128
_GRAPH_STEP: Final = 8
"""vLLM's."""
_SIZES_SHOW_GRAPHS: Final = 8
_TOLD_APART: Final = 4
"""How many closed loops of different sizes tell ``c`` from ``d``."""
_SEQUENCE_S: Final = 2e-5
"""What sampling and scheduling a sequence takes, whatever the model; what is more is its attention's."""
_TOKEN_QUEUE: Final = 1.9e-6
"""Seconds times seconds. What the API server's queue adds to a token grows with the tokens a second that it handles,
and so with the inverse of a step."""


def guess(name: str, model: str, loads: Sequence[Measurements], limits: Limits = Limits()) -> Profile:
    """A first profile from what was measured.

    ``a``, ``c`` and ``d`` come from the requests' median gaps and from how many others, of what contexts, were seen to
    be decoding meanwhile; ``b`` and the request's overhead from the lower envelope of times to first token over prompt
    lengths. Limits that are unknown are taken to have been no limit: room for all that was in flight.
    """
    held = _held(loads, limits)
    a, c, d = _decoding(loads)
    b, overhead, floor = _prefill(loads, a)
    return Profile(
        name=name,
        model=model,
        a=a,
        b=b,
        c=c,
        d=d,
        request_overhead_s=overhead,
        token_overhead_s=_TOKEN_QUEUE / a,
        eager_floor_s=floor,
        overlap_s=_OVERLAPS[1] * a,
        mixed_floor_s=_MIXED * a,
        wide_s=_WIDE * a if _widest(loads) > _WIDE_BATCH else 0.0,
        graph_step=_GRAPH_STEP if _shows_graphs(loads) else 1,
        async_scheduling=True,
        graph_tokens=_GRAPH_TOKENS,
        cold_start_s=0.0,
        sleep_s=0.0,
        wake_s=0.0,
        usd_per_hour=0.0,
        max_num_seqs=held.max_num_seqs,
        max_num_batched_tokens=held.max_num_batched_tokens,
        kv_blocks=held.kv_blocks,
        block_size=held.block_size,
        max_model_len=held.max_model_len,
    )


def guesses(name: str, model: str, loads: Sequence[Measurements], limits: Limits = Limits()) -> list[Profile]:
    """Several places to begin at, which a fit's rounds would not get to from one another: with and without a least time
    of big prompts' steps, with little or much of a prompt's time hidden, and scheduled ahead or not: a server's version
    does not tell (vLLM does since 0.14, but not on CPUs)."""
    first = guess(name, model, loads, limits)
    return [
        replace(first, eager_floor_s=floor, overlap_s=share * first.a, async_scheduling=ahead)
        for floor in sorted({0.0, first.eager_floor_s})
        for share in _OVERLAPS
        for ahead in (True, False)
    ]


def _widest(loads: Sequence[Measurements]) -> float:
    """The most that were decoding at once, on average over a request's life."""
    return max(float(_company(load)[:, 1].max()) for load in loads)


def _shows_graphs(loads: Sequence[Measurements]) -> bool:
    """Whether batches of many known sizes were timed; else padding cannot be told from what a sequence takes."""
    return len({load.concurrency for load in loads if load.concurrency}) > _SIZES_SHOW_GRAPHS


def bearable_rate(profile: Profile, prompt_tokens: float, output_tokens: float) -> float:
    """Requests/s at which an engine is busy all the time, with as many in flight as it holds (means of sizes)."""
    context = prompt_tokens + output_tokens / 2
    room = profile.kv_blocks * profile.block_size / (prompt_tokens + output_tokens)
    batch = max(1.0, min(profile.max_num_seqs, room))
    step = profile.a / batch + profile.c + profile.d * context
    return 1.0 / (profile.b * prompt_tokens + output_tokens * step)


def _decoding(loads: Sequence[Measurements]) -> tuple[float, float, float]:
    """Non-negative least squares of relative errors in ``gap = a + cB + dS``.

    Batch and context go together in open loops; without closed ones of several sizes, their joint growth is shared out
    between attention and the rest.
    """
    rows, gaps = [], []
    for load in loads:
        company = _company(load)
        known = np.isfinite(load.measured.itl) & (load.measured.itl > 0) & (load.output_tokens > 4)
        rows.append(company[known])
        gaps.append(load.measured.itl[known])
    parts, gap = np.concatenate(rows), np.concatenate(gaps)
    if not len(gap):
        raise ValueError("no request has an inter-token time; answers must have some tokens")
    a, c, d = _non_negative(parts / gap[:, None])
    designed = {(load.concurrency, int(load.prompt_tokens[0])) for load in loads if load.concurrency}
    if len(designed) < _TOLD_APART or not min(c, d) > 0.0:
        context = float(parts[:, 2].sum() / parts[:, 1].sum())
        a, joint = _non_negative(np.column_stack([parts[:, 0], parts[:, 1]]) / gap[:, None])
        c, d = _SEQUENCE_S, max(joint - _SEQUENCE_S, joint / 3) / context
    a = max(float(a), 0.5 * float(np.quantile(gap, 0.02)))
    return a, max(float(c), _LEAST["c"]), max(float(d), _LEAST["d"])


def _company(load: Measurements) -> Floats:
    """(n, 3): one; how many were decoding while a request did, itself included; and the sum of their contexts."""
    first, last = load.arrival + load.measured.ttft, load.arrival + load.measured.e2e
    lives = np.maximum(last - first, 1e-9)
    context = load.prompt_tokens + load.output_tokens / 2
    found = np.empty((len(load), 3))
    for i in range(len(load)):
        shared = np.clip(np.minimum(last, last[i]) - np.maximum(first, first[i]), 0.0, None) / lives[i]
        found[i] = 1.0, shared.sum(), shared @ context
    return found


def _prefill(loads: Sequence[Measurements], a: float) -> tuple[float, float, float]:
    """Seconds a prompt token, a request's overhead, and the least time of a big prompt's step."""
    quiet = [load for load in loads if load.concurrency == 1] or list(loads)
    prompts = np.concatenate([load.prompt_tokens for load in quiet]).astype(np.float64)
    ttft = np.concatenate([load.measured.ttft for load in quiet])
    order = np.argsort(prompts, kind="stable")
    bins = [b for b in np.array_split(order, min(8, len(order))) if len(b)]
    lengths = np.array([prompts[b].mean() for b in bins])
    envelope = np.array([np.quantile(ttft[b], 0.2) for b in bins])
    _, slope = _non_negative(np.column_stack([np.ones(len(bins)), lengths]) / envelope[:, None])
    overhead = max(0.5 * (float(ttft.min()) - a), _LEAST["overhead"])
    big = ttft[prompts > _GRAPH_TOKENS]
    floor = max(float(np.quantile(big, 0.1)) - overhead, 0.0) if len(big) else 0.0
    return max(float(slope), _LEAST["b"]), overhead, floor


def _non_negative(rows: Floats) -> Floats:
    """Weights (k,) that bring ``rows`` (n, k) closest to one, those that would be negative left at zero in turn."""
    weights = np.zeros(rows.shape[1])
    kept = list(range(rows.shape[1]))
    while kept:
        found = np.linalg.lstsq(rows[:, kept], np.ones(len(rows)), rcond=None)[0]
        if found.min() >= 0.0:
            weights[kept] = found
            break
        kept.pop(int(np.argmin(found * np.abs(rows[:, kept]).mean(axis=0))))
    return weights


class _Held(NamedTuple):
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_size: int
    max_model_len: int


def _held(loads: Sequence[Measurements], limits: Limits) -> _Held:
    longest = max(int((load.prompt_tokens + load.output_tokens).max()) for load in loads)
    most = max(int(load.concurrency or 1) for load in loads)
    seqs = limits.max_num_seqs or max(_SEQS, most)
    length = limits.max_model_len or 1 << math.ceil(math.log2(longest + 1))
    block = limits.block_size or _BLOCK
    blocks = limits.kv_blocks or seqs * math.ceil(length / block)
    return _Held(seqs, max(limits.max_num_batched_tokens or _BATCHED, seqs), blocks, block, length)
