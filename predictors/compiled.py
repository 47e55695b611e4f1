"""Inner loops compiled by numba. Where it is missing the callers' numpy code gives the same answers, more slowly.

A compiled function is a kernel: arrays and numbers in, arrays and numbers out. Compiling takes seconds, so whoever uses
one calls it once while loading; the machine code is kept beside the module, or in the user's cache folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["AVAILABLE", "compiled"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

try:
    import numba
except ImportError:  # not installed, or built for another numpy
    AVAILABLE: bool = False
else:
    AVAILABLE = not numba.config.DISABLE_JIT


def compiled(kernel: Kernel) -> Kernel:
    """The kernel as machine code; the kernel as it is where there is no numba, which is for tests only."""
    if not AVAILABLE:
        return kernel
    try:
        fast: Kernel = numba.njit(cache=True, error_model="numpy")(kernel)
    except RuntimeError:  # no folder where the machine code could be kept
        fast = numba.njit(error_model="numpy")(kernel)
    return fast
