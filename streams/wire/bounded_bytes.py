"""Bytes from outside as compiled code reads them: the one place that says where a read may go.

A kernel takes one value, cut out of the buffer as a slice, and reads it by `byte_at` alone: no place that it asks for
lies in another value, or outside. All that it writes, each table it looks into, and the ids whose places it found,
numba's `boundscheck` holds inside their arrays. Under `byte_at`, whose check is all that it does, that would ask twice.
"""

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined, inlined


@inlined
def byte_at(value: NDArray[np.uint8], i: int) -> int:
    """Return `value[i]`, and 0 outside: a byte that no JSON has, so that each loop over it ends there."""
    # Unsigned: a place below 0 is past the end, too, and numba need not ask whether it counts from there.
    return int(np.int64(value[np.uint64(i)])) if np.uint64(i) < np.uint64(value.size) else 0


@bounded_inlined
def word_at(data: NDArray[np.uint8], i: int) -> np.uint64:
    """Return the eight bytes from `data[i]` on, the first of them lowest; `IndexError` where one is outside."""
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[np.uint64(i) + np.uint64(k)]) << np.uint64(8 * k)
    return word
