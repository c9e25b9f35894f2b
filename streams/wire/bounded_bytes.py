"""Bytes from outside as compiled code reads them: the one place that says where a read may go.

Each kernel over such bytes is compiled with numba's `boundscheck`, so that an index outside its array is an
`IndexError` and never a read or write beside it. That is the net. What a kernel relies on is `byte_at`: it takes one
value, cut out of the buffer as a slice, and no place that it is asked for lies in another value.
"""

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined


@bounded_inlined
def byte_at(value: NDArray[np.uint8], i: int) -> int:
    """Return `value[i]`, and 0 outside: a byte that no JSON has, so that each loop over it ends there."""
    # Unsigned: a place below 0 is past the end, too, and numba need not ask whether it counts from there.
    return int(np.int64(value[np.uint64(i)])) if np.uint64(i) < np.uint64(value.size) else 0


@bounded_inlined
def word_at(data: NDArray[np.uint8], i: int) -> np.uint64:
    """Return the eight bytes from `data[i]` on, the first of them lowest."""
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[np.uint64(i) + np.uint64(k)]) << np.uint64(8 * k)
    return word
