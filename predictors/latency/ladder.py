"""The ladder of simulated engines that ships: two fitted shapes, one scaled from them, and an assumed skill for each.

The shapes that were measured have random weights: their timing is real, but they have no skill. Which answers are
right on the simulated ladder is therefore an assumption, stated here and in the model cards, that bigger models answer
more prompts right, that all get worse with a task's level, and that families differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from predictors.latency.measurements import ClosedLoop
from predictors.latency.model import Profile

Skill = Mapping[str, tuple[float, ...]]

SMALL_SKILL: Final[Skill] = {
    "arithmetic": (0.85, 0.55, 0.30, 0.15),
    "word_problems": (0.75, 0.45, 0.25, 0.12),
    "sorting": (0.80, 0.55, 0.35, 0.20),
    "string_edits": (0.70, 0.45, 0.28, 0.15),
    "counting": (0.75, 0.50, 0.32, 0.18),
    "dates": (0.70, 0.42, 0.25, 0.12),
    "units": (0.82, 0.58, 0.36, 0.20),
    "logic": (0.65, 0.40, 0.24, 0.12),
    "lookup": (0.90, 0.70, 0.48, 0.28),
}
MEDIUM_SKILL: Final[Skill] = {
    "arithmetic": (0.97, 0.88, 0.72, 0.50),
    "word_problems": (0.95, 0.82, 0.65, 0.48),
    "sorting": (0.95, 0.85, 0.70, 0.55),
    "string_edits": (0.92, 0.80, 0.65, 0.50),
    "counting": (0.94, 0.82, 0.68, 0.52),
    "dates": (0.93, 0.80, 0.64, 0.48),
    "units": (0.96, 0.87, 0.73, 0.56),
    "logic": (0.92, 0.78, 0.60, 0.45),
    "lookup": (0.98, 0.92, 0.82, 0.66),
}
LARGE_SKILL: Final[Skill] = {
    "arithmetic": (0.99, 0.97, 0.93, 0.88),
    "word_problems": (0.99, 0.96, 0.91, 0.85),
    "sorting": (0.99, 0.97, 0.94, 0.90),
    "string_edits": (0.99, 0.95, 0.91, 0.86),
    "counting": (0.99, 0.96, 0.92, 0.87),
    "dates": (0.99, 0.95, 0.90, 0.85),
    "units": (0.99, 0.97, 0.93, 0.89),
    "logic": (0.98, 0.94, 0.89, 0.83),
    "lookup": (0.99, 0.98, 0.96, 0.92),
}

_GPU_USD_PER_HOUR: Final = 2.5
"""Assumed price of one H100; a profile that uses a share of its memory costs that share."""

START_1B: Final = Profile(
    name="h100-1b",
    model="llama-1b-shape",
    a=2.3e-3,
    b=4e-6,
    c=20e-6,
    d=10e-9,
    request_overhead_s=4e-3,
    token_overhead_s=0.8e-3,
    eager_floor_s=16e-3,
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    kv_blocks=34_800,
    block_size=16,
    max_model_len=8192,
    cold_start_s=128.0,
    sleep_s=12.0,
    wake_s=0.55,
    usd_per_hour=0.25 * _GPU_USD_PER_HOUR,
    skill=SMALL_SKILL,
    verbosity=0.8,
)
START_8B: Final = replace(
    START_1B,
    name="h100-8b",
    model="llama-8b-shape",
    a=6.2e-3,
    b=23e-6,
    d=39e-9,
    token_overhead_s=0.3e-3,
    eager_floor_s=0.0,
    kv_blocks=27_212,
    usd_per_hour=_GPU_USD_PER_HOUR,
    skill=MEDIUM_SKILL,
    verbosity=1.0,
)
"""Where the fit begins: the limits the servers were started with, and constants from bandwidth and arithmetic.

The 1B server's KV cache was not recorded; its size is what a quarter of the memory leaves beside the weights, as on the
8B server. Its tokens' overhead starts higher, because what an API server's queue adds grows with the tokens a second
that it handles, and these steps are shorter. Its start-up, sleep and wake times are those of the 8B. Beyond 512 prompt
tokens the 8B shape computes longer than kernels take to launch, so its floor is left out.
"""

CLOSED_LOOPS_8B: Final = tuple(
    ClosedLoop(concurrency, prompt_tokens=512, output_tokens=128, requests=2 * concurrency, tokens_per_s=tokens_per_s)
    for concurrency, tokens_per_s in ((1, 154.0), (8, 1099.0), (32, 3087.0), (128, 5653.0), (256, 5979.0))
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What scaling looks at: parameters that every token passes, and KV bytes a token, both in 16-bit numbers."""

    parameters: float
    kv_bytes_per_token: int
    layers: int


LLAMA_8B: Final = Shape(7.2e9, 131_072, 32)
QWEN_32B: Final = Shape(32.5e9, 262_144, 64)


def scale_tensor_parallel(base: Profile, of: Shape, to: Shape, *, gpus: int, efficiency: float = 0.9) -> Profile:
    """The timing of a bigger model on more GPUs of the same kind, from a fitted profile; an estimate, not a fit.

    Each GPU reads and multiplies its share of the weights, so ``a``, ``b``, ``c``, sleep and start-up grow with
    parameters a GPU, and ``d`` with KV bytes a GPU. ``efficiency`` (assumed) is what all-reduces leave of ``b`` and
    ``c``; launching kernels takes time by layers.
    """
    weights = to.parameters / gpus / of.parameters
    cache = to.kv_bytes_per_token / gpus / of.kv_bytes_per_token
    return replace(
        base,
        a=base.a * weights,
        b=base.b * weights / efficiency,
        c=base.c * weights / efficiency,
        d=base.d * cache,
        eager_floor_s=base.eager_floor_s * to.layers / of.layers,
        overlap_s=base.overlap_s * weights,
        wide_s=base.wide_s * weights,
        mixed_floor_s=base.mixed_floor_s * to.layers / of.layers,
        cold_start_s=base.cold_start_s * weights,
        sleep_s=base.sleep_s * weights,
        wake_s=base.wake_s * weights,
        usd_per_hour=base.usd_per_hour * gpus,
        scaled_from=base.name,
        errors={},
    )


def scaled_32b(fitted_8b: Profile) -> Profile:
    """A 32B shape (that of Qwen2.5-32B) on two H100; the KV cache is what 85 % of their memory leaves free."""
    scaled = scale_tensor_parallel(fitted_8b, LLAMA_8B, QWEN_32B, gpus=2)
    free_bytes = 2 * 0.85 * 79.2 * 2**30 - 2 * QWEN_32B.parameters - 2 * 0.75 * 2**30
    return replace(
        scaled,
        name="h100-32b",
        model="qwen-32b-shape",
        kv_blocks=int(free_bytes / QWEN_32B.kv_bytes_per_token) // scaled.block_size,
        skill=LARGE_SKILL,
        verbosity=1.25,
    )
