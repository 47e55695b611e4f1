"""Inner loops compiled by numba. Where it is missing the callers' numpy code gives the same answers, more slowly.

A compiled function is a kernel: arrays and numbers in, arrays and numbers out. Compiling takes seconds, so whoever uses
one calls it once while loading; the machine code is kept beside the module, or in the user's cache folder. It is made
anew when that module changes, but not when another changes whose kernels it calls: then delete the ``*.nbi`` files.

A server scores a prompt once in milliseconds, and by then its tables have left the caches. So tables are small, what is
read together lies together (:func:`lined`), and what will be read at random is asked for in time
(:func:`predictors.intrinsics.prefetch`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["AVAILABLE", "LINE", "borrowed", "compiled", "lined"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Scalar = TypeVar("Scalar", bound=np.generic)

LINE: Final = 64
"""Bytes that come from memory together."""

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


if AVAILABLE:

    @numba.extending.intrinsic  # type: ignore[untyped-decorator]
    def _pointer(typing_context: Any, address: Any) -> Any:
        """An integer as a pointer."""

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], numba.core.cgutils.voidptr_t)

        return numba.types.voidptr(address), code

    @numba.njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def borrowed(array: Any) -> Any:
        """In a kernel: the same memory as an array of which nobody counts the holders; the caller keeps the array.

        A kernel of many small functions would otherwise spend half its time on counting.
        """
        return numba.carray(_pointer(array.ctypes.data), array.shape, array.dtype)

else:

    def borrowed(array: Any) -> Any:
        """The array itself."""
        return array


def lined(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """A copy whose first byte begins a cache line."""
    room = np.zeros(array.nbytes + LINE, dtype=np.uint8)
    start = -room.ctypes.data % LINE
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
