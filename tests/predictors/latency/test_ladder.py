"""Scaling a fitted profile to a bigger model."""

from __future__ import annotations

import pytest

from envs.tasks import FAMILY_NAMES
from predictors.latency.ladder import (
    LARGE_SKILL,
    LLAMA_8B,
    MEDIUM_SKILL,
    QWEN_32B,
    SMALL_SKILL,
    START_8B,
    scale_tensor_parallel,
    scaled_32b,
)


def test_scaling_to_the_same_shape_changes_only_the_mark() -> None:
    same = scale_tensor_parallel(START_8B, LLAMA_8B, LLAMA_8B, gpus=1, efficiency=1.0)
    assert same.step_seconds(100, 10, 5000) == pytest.approx(START_8B.step_seconds(100, 10, 5000))
    assert (same.scaled_from, same.usd_per_hour) == ("h100-8b", START_8B.usd_per_hour)


def test_two_gpus_share_the_weights_and_the_cache() -> None:
    one, two = (scale_tensor_parallel(START_8B, LLAMA_8B, QWEN_32B, gpus=n, efficiency=1.0) for n in (1, 2))
    assert one.a == pytest.approx(2 * two.a)
    assert one.d == pytest.approx(2 * two.d)
    assert two.usd_per_hour == 2 * START_8B.usd_per_hour


def test_the_32b_fits_its_two_gpus() -> None:
    profile = scaled_32b(START_8B)
    used = 2 * QWEN_32B.parameters + profile.kv_blocks * profile.block_size * QWEN_32B.kv_bytes_per_token
    assert used < 2 * 0.85 * 79.2 * 2**30
    assert profile.kv_blocks * profile.block_size > 8 * profile.max_model_len


@pytest.mark.parametrize("skill", [SMALL_SKILL, MEDIUM_SKILL, LARGE_SKILL])
def test_every_task_family_has_a_skill_at_every_level(skill: dict[str, tuple[float, ...]]) -> None:
    assert set(skill) == set(FAMILY_NAMES)
    assert {len(levels) for levels in skill.values()} == {4}
