from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from predictors.compiled import LINE, compiled, lined
from predictors.intrinsics import _plain, dot_256, prefetch


@compiled
def products(rows: NDArray[np.uint8], other: NDArray[np.int8]) -> NDArray[np.int64]:
    found = np.empty(len(rows), dtype=np.int64)
    for row in range(len(rows)):
        prefetch(rows, row, 64)
        found[row] = dot_256(rows, row, other)
    return found


@given(seed=st.integers(0, 1000), rows=st.integers(0, 7))
def test_bytes_are_multiplied_exactly(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 256, (rows, 256), dtype=np.uint8)
    right = rng.integers(-128, 128, 256, dtype=np.int8)
    expected = left.astype(np.int64) @ right.astype(np.int64)
    assert products(left, right).tolist() == expected.tolist()
    assert [_plain()[1](left, row, right) for row in range(rows)] == expected.tolist()


def test_extremes_do_not_overflow() -> None:
    left, right = np.full((1, 256), 255, np.uint8), np.full(256, -128, np.int8)
    assert products(left, right).tolist() == [-255 * 128 * 256]


def test_a_lined_copy_begins_a_cache_line() -> None:
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    copy = lined(rows)
    assert copy.ctypes.data % LINE == 0
    assert np.array_equal(copy, rows)
    assert not np.shares_memory(copy, rows)
