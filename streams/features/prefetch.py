"""One instruction that Numba has no name for: ask the processor for a stream's state before its event's turn comes.

With 10⁴ streams and more their state lies outside the cache, and an event waits for memory longer than it computes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from streams.features.windows import STREAM

_LINE_BYTES = 64
assert STREAM.fields is not None
_READ_BYTES = STREAM.fields["recent"][1]  # its remembered times and closed panes are hardly ever read
_FOR_WRITING, _KEEP, _DATA = 1, 3, 1  # arguments of llvm.prefetch


@intrinsic
def prefetch(_typing: Any, rows: Any, s: Any) -> Any:
    """Fetch what an event reads of row `s` of `rows`, an array of `STREAM`, into the cache; changes nothing."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.bitcast(array.data, cgutils.voidptr_t)
        row = builder.gep(start, [builder.mul(arguments[1], ir.Constant(ir.IntType(64), STREAM.itemsize))])
        prefetches = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *3 * [ir.IntType(32)]])
        fetch = cgutils.get_or_insert_function(builder.module, prefetches, "llvm.prefetch.p0")
        how = [ir.Constant(ir.IntType(32), value) for value in (_FOR_WRITING, _KEEP, _DATA)]
        for offset in range(0, _READ_BYTES, _LINE_BYTES):
            builder.call(fetch, [builder.gep(row, [ir.Constant(ir.IntType(64), offset)]), *how])
        return context.get_dummy_value()

    return types.void(rows, s), codegen
