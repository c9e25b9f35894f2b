"""Bytes of an array as compiled code wants them: one at a time or eight at once, without a check of the index.

Numba's own indexing asks of each signed index whether it counts from the end, which doubled the time of the scanner.
The caller knows that the index is inside, by a sentinel or a length.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy.typing import NDArray

Codegen = tuple[Signature, Any]


def _load(of: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        at = builder.bitcast(builder.gep(array.data, [arguments[1]]), of.as_pointer())
        value = builder.load(at, align=1)
        return builder.zext(value, ir.IntType(64)) if of == ir.IntType(8) else value

    return codegen


@intrinsic
def _byte_at(_typing: Any, data: types.Array, i: types.Integer) -> Codegen:
    return types.int64(data, types.int64), _load(ir.IntType(8))


@intrinsic
def _word_at(_typing: Any, data: types.Array, i: types.Integer) -> Codegen:
    return types.uint64(data, types.int64), _load(ir.IntType(64))


@intrinsic
def _f8_at(_typing: Any, data: types.Array, i: types.Integer) -> Codegen:
    return types.float64(data, types.int64), _load(ir.DoubleType())


@intrinsic
def _f4_at(_typing: Any, data: types.Array, i: types.Integer) -> Codegen:
    return types.float32(data, types.int64), _load(ir.FloatType())


byte_at: Callable[[NDArray[np.uint8], int], int] = _byte_at
"""Return `data[i]` as an int64; `data` is contiguous."""
word_at: Callable[[NDArray[np.uint8], int], np.uint64] = _word_at
"""Return the eight bytes from `data[i]` on, of which the first is the lowest."""
f8_at: Callable[[NDArray[np.uint8], int], float] = _f8_at
"""Return the float64 in the eight bytes from `data[i]` on."""
f4_at: Callable[[NDArray[np.uint8], int], float] = _f4_at
"""Return the float32 in the four bytes from `data[i]` on."""
