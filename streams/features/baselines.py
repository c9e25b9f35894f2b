"""The baseline of a metric: the median of the means of a day's closed panes, kept in 48 bits each.

A mean is a float64 that is not negative. Its sign bit, which is always 0, and its last 15 bits are cut off and 1 is
added: codes keep the order of the means, and 0, what fresh memory holds, is a pane without a value. What is cut off is
less than 2⁻³⁷ (7.3e-12) of the mean, and always downwards: a constant stream is not below its own baseline.
The reasons: docs/decisions/0008-means-in-48-bits.md.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined

_CUT_BITS = 15
_LOW_BITS = 16
_CODE_ABOVE_ALL = 1 << 48


@inlined
def code_of(mean: float) -> int:
    """Return the code of a mean, from 1 to 2⁴⁸ − 1, or 0 for NaN, the pane without a value."""
    return 0 if np.isnan(mean) else int(np.float64(mean).view(np.int64) >> _CUT_BITS) + 1


@inlined
def mean_of(code: int) -> float:
    """Return the mean of a code that is not 0, less what was cut off."""
    return float(np.int64((code - 1) << _CUT_BITS).view(np.float64))


@inlined
def put(high: NDArray[np.uint32], low: NDArray[np.uint16], metric: int, i: int, mean: float) -> None:
    """Keep the mean of closed pane `i`, NaN if it has no value, in `high` and `low` of shape (3, 96)."""
    code = code_of(mean)
    high[metric, i] = np.uint32(code >> _LOW_BITS)
    low[metric, i] = np.uint16(code & 0xFFFF)


@inlined
def median(high: NDArray[np.uint32], low: NDArray[np.uint16], metric: int, guess: float) -> float:
    """Return the median of the kept means of a metric, NaN where there is none.

    `guess` is where to look first, NaN for anywhere. The median of a moment ago is one or two ranks away, so that one
    pass of 96 codes, or two, finds the new one; any other guess costs more passes and gives the same.
    """
    around = code_of(guess) if not np.isnan(guess) else _middling(high, low, metric)
    while True:
        n, below, above, less, greater = _split(high, low, metric, around)
        if n == 0:
            return np.nan
        lower, upper = (n - 1) // 2, n // 2
        # `below` has rank less − 1, `above` rank n − greater, and the ranks between them are `around`'s.
        if lower < less - 1:
            around = below
        elif upper > n - greater:
            around = above
        else:
            first = below if lower < less else (around if lower < n - greater else above)
            second = below if upper < less else (around if upper < n - greater else above)
            return float(0.5 * (mean_of(first) + mean_of(second)))


@inlined
def _split(
    high: NDArray[np.uint32], low: NDArray[np.uint16], metric: int, around: int
) -> tuple[int, int, int, int, int]:
    """Return the number of codes, the nearest one below and above `around`, and how many are less and greater."""
    n, less, greater, below, above = 0, 0, 0, 0, _CODE_ABOVE_ALL
    for i in range(high.shape[1]):
        code = _code(high, low, metric, i)
        n += code > 0
        less += 0 < code < around
        greater += code > around
        below = max(below, code if code < around else 0)
        above = min(above, code if code > around else _CODE_ABOVE_ALL)
    return n, below, above, less, greater


@inlined
def _code(high: NDArray[np.uint32], low: NDArray[np.uint16], metric: int, i: int) -> Any:
    # As int64: Numba makes float64 of what joins signed and unsigned.
    return (np.int64(high[metric, i]) << _LOW_BITS) | np.int64(low[metric, i])


@inlined
def _middling(high: NDArray[np.uint32], low: NDArray[np.uint16], metric: int) -> int:
    """Return the mean of the codes, a fair first guess, 0 where there is none."""
    n, total = 0, 0
    for i in range(high.shape[1]):
        code = _code(high, low, metric, i)
        n += code > 0
        total += code
    return total // max(n, 1)
