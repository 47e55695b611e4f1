"""Kept machine code is never older than what it was made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from predictors.compiled import AVAILABLE, LINE, lined, sources

ROOT = Path(__file__).resolve().parents[2]
KERNEL = """
from predictors.compiled import compiled
from rooms.constants import STEP

@compiled
def twice(x):
    return 2 * x + STEP
"""


def ask(folder: Path) -> str:
    code = "from rooms.kernel import twice; print(twice(3))"
    places = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not AVAILABLE, reason="needs numba")
def test_code_that_was_kept_is_made_anew_when_a_constant_beside_it_changes(tmp_path: Path) -> None:
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    (rooms / "__init__.py").write_text("")
    (rooms / "kernel.py").write_text(KERNEL)
    (rooms / "constants.py").write_text("STEP = 10\n")
    assert ask(tmp_path) == "16"
    assert list(rooms.rglob("*.nbi"))
    (rooms / "constants.py").write_text("STEP = 20\n")
    assert ask(tmp_path) == "26"


def test_only_folders_with_kernels_count(tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "near" / "kernel.py").write_text("from predictors.compiled import compiled\n")
    (tmp_path / "near" / "beside.py").write_text("A = 1\n")
    (tmp_path / "far" / "other.py").write_text("B = 1\n")
    before = sources(tmp_path)
    (tmp_path / "far" / "other.py").write_text("B = 2\n")
    sources.cache_clear()
    assert sources(tmp_path) == before
    (tmp_path / "near" / "beside.py").write_text("A = 2\n")
    sources.cache_clear()
    assert sources(tmp_path) != before


def test_a_lined_copy_begins_a_line() -> None:
    copy = lined(np.arange(12, dtype=np.int64).reshape(3, 4))
    assert copy.ctypes.data % LINE == 0
    assert copy.tolist() == np.arange(12).reshape(3, 4).tolist()
