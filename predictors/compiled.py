"""Inner loops compiled by numba. Where it is missing the callers' numpy code gives the same answers, more slowly.

A compiled function is a kernel: arrays and numbers in, arrays and numbers out. Compiling takes seconds, so whoever uses
one calls it once while loading; the machine code is kept beside the module, or in the user's cache folder. It is made
anew when a module changes that has kernels, or lies beside one in its folder: a kernel has the code of those that it
calls inside it, and the constants that it names.

A server scores a prompt once in milliseconds, and by then its tables have left the caches. So tables are small, what is
read together lies together (:func:`lined`), and what will be read at random is asked for in time
(:func:`predictors.intrinsics.prefetch`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["AVAILABLE", "LINE", "borrowed", "compiled", "lined"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Scalar = TypeVar("Scalar", bound=np.generic)

_HERE: Final = Path(__file__).parent
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
        fast = numba.njit(cache=True, error_model="numpy")(kernel)
    except RuntimeError:  # no folder where the machine code could be kept
        fast = numba.njit(error_model="numpy")(kernel)
    else:
        _stamp(fast, Path(kernel.__code__.co_filename))
    kept: Kernel = fast
    return kept


def _stamp(fast: Any, module: Path) -> None:
    """Have the machine code thrown away when any module changes that it may have been made from.

    numba itself looks at the kernel's own module only. Where its insides are not as known, nothing is kept from run to
    run.
    """
    try:
        kept = fast._cache._cache_file
        kept._source_stamp = (kept._source_stamp, sources(module.parents[_depth(module)]), sources(_HERE))
    except AttributeError:
        fast._cache = numba.core.caching.NullCache()


def _depth(module: Path) -> int:
    """How many folders below its top-level package a module lies."""
    depth = 0
    while (module.parents[depth] / "__init__.py").exists() and (module.parents[depth + 1] / "__init__.py").exists():
        depth += 1
    return depth


@cache
def sources(package: Path) -> str:
    """A digest of all modules of a package that lie in a folder with kernels."""
    modules = sorted(package.rglob("*.py"))
    texts = {module: module.read_bytes() for module in modules}
    folders = {module.parent for module, text in texts.items() if b"predictors.compiled import" in text}
    digest = sha256()
    for module, text in texts.items():
        if module.parent in folders or module == Path(__file__):
            digest.update(str(module.relative_to(package)).encode() + b"\0" + text)
    return digest.hexdigest()


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
