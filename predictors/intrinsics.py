"""What kernels say to the processor beyond arithmetic, as LLVM's own operations; so on any processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import AVAILABLE

__all__ = ["dot_256", "prefetch"]

_SOON: Final = (0, 3, 1)
"""Of ``llvm.prefetch``: to read, into all caches, data."""


def _compiled() -> tuple[Callable[[NDArray[Any], int, int], None], Callable[[NDArray[Any], int, NDArray[Any]], int]]:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    byte, bits, word = ir.IntType(8), ir.IntType(32), ir.IntType(64)

    def address(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
        view = context.make_array(kind)(context, builder, array)
        start = builder.ptrtoint(view.data, word)
        return builder.add(start, builder.mul(row, builder.extract_value(view.strides, 0)))

    def ask(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        row, offset = (context.cast(builder, arguments[i], kinds[i], types.intp) for i in (1, 2))
        at = builder.add(address(context, builder, kinds[0], arguments[0], row), offset)
        line = builder.inttoptr(at, byte.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [line.type, bits, bits, bits])
        function = builder.module.declare_intrinsic("llvm.prefetch", [line.type], kind)
        builder.call(function, [line, *(bits(how) for how in _SOON)])
        return context.get_dummy_value()

    def multiply(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, narrow, wide = signature.args, ir.VectorType(byte, 256), ir.VectorType(bits, 256)
        row = context.cast(builder, arguments[1], kinds[1], types.intp)
        left, right = (
            builder.load(builder.inttoptr(address(context, builder, kind, array, at), narrow.as_pointer()), align=1)
            for kind, array, at in ((kinds[0], arguments[0], row), (kinds[2], arguments[2], word(0)))
        )
        products = builder.mul(builder.zext(left, wide), builder.sext(right, wide))
        kind = ir.FunctionType(bits, [wide])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.add.v256i32")
        return builder.call(function, [products])

    def prefetch(context: Any, rows: Any, row: Any, offset: Any) -> Any:
        return types.none(rows, row, offset), ask

    def dot_256(context: Any, rows: Any, row: Any, other: Any) -> Any:
        return types.int32(rows, row, other), multiply

    return intrinsic(prefetch), intrinsic(dot_256)


def _plain() -> tuple[Callable[[NDArray[Any], int, int], None], Callable[[NDArray[Any], int, NDArray[Any]], int]]:
    def prefetch(rows: NDArray[Any], row: int, offset: int) -> None:
        """Nothing."""

    def dot_256(rows: NDArray[Any], row: int, other: NDArray[Any]) -> int:
        return int(rows[row].astype(np.int32) @ other.astype(np.int32))

    return prefetch, dot_256


prefetch, dot_256 = _compiled() if AVAILABLE else _plain()
"""``prefetch(rows, row, offset)`` asks for the cache line of one byte of a row of an array, which will be read soon.

``dot_256(rows, row, other)`` is the product of a row of unsigned bytes (n, 256) and signed ones (256,), contiguous: so
written that LLVM finds a processor's own instructions for it, where of a loop it would make twice as many."""
