"""Small profiles for engine tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from predictors.latency.model import Profile

PLAIN = Profile(
    name="test",
    model="test-model",
    a=5e-3,
    b=20e-6,
    c=30e-6,
    d=40e-9,
    request_overhead_s=4e-3,
    token_overhead_s=50e-6,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    kv_blocks=128,
    block_size=16,
    max_model_len=2048,
    cold_start_s=30.0,
    sleep_s=2.0,
    wake_s=0.5,
    usd_per_hour=2.0,
)


def profile(**changes: Any) -> Profile:
    """The plain profile with other values."""
    return replace(PLAIN, **changes)
