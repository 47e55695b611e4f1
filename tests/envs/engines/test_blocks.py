"""Counting blocks for runs agrees with counting them one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from envs.engines.blocks import BlockPool


def pool_of(bases: list[int], step: int, total: int, size: int) -> BlockPool:
    pool = BlockPool(total, size)
    for base in bases:
        pool.used += pool.for_tokens(base + step - 1)
        pool.join(base)
    return pool


BASES = st.lists(st.integers(2, 200), min_size=1, max_size=8)


@given(BASES, st.integers(0, 50), st.integers(0, 100), st.sampled_from([1, 4, 16]))
def test_a_run_takes_what_its_steps_take(bases: list[int], step: int, steps: int, size: int) -> None:
    pool = pool_of(bases, step, 10_000, size)
    pool.grow(step, steps)
    assert pool.used == sum(pool.for_tokens(base + step + steps - 1) for base in bases)
    for base in bases:
        pool.leave(base, step + steps)
    assert pool.used == 0


@given(BASES, st.integers(0, 50), st.integers(1, 100), st.integers(0, 40), st.sampled_from([1, 4, 16]))
def test_it_knows_when_blocks_run_short(bases: list[int], step: int, most: int, spare: int, size: int) -> None:
    pool = pool_of(bases, step, 0, size)
    pool.total = pool.used + spare
    steps = pool.steps_until_short(step, most)
    expected = 0
    while expected < most and sum(pool.for_tokens(base + step + expected) for base in bases) <= pool.total:
        expected += 1
    assert steps == expected
