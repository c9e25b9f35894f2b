"""Decimal numbers in JSON to the nearest float64, compiled; what can't be rounded right at once is left to others."""

import numba
import numpy as np
from numpy.typing import NDArray

from streams.raw_bytes import byte_at

_DIGITS_MAX = 18  # of what is not a leading zero: the most that an int64 surely holds
_EXACT_MAX = 1 << 53  # up to here each whole number is a float64
_POWER_MAX = 22  # 10**22 is the last power of ten that is a float64
_POWERS = np.array([float(10**p) for p in range(_POWER_MAX + 1)])
_EXPONENT_MAX = 400


@numba.njit(nogil=True)
def number(data: NDArray[np.uint8], i: int) -> tuple[float, int]:
    """Return the number ≥ 0 at `i` and the place after it; the place is -1 for what is none, or not easily read.

    With a mantissa below 2⁵³ and a power of ten within ±22 both are exact, so that one multiplication or division
    rounds once and right (Clinger, "How to read floating point numbers accurately", PLDI 1990).
    """
    start, mantissa, digits, power = i, 0, 0, 0
    while 48 <= byte_at(data, i) <= 57:
        mantissa = mantissa * 10 + byte_at(data, i) - 48
        digits += mantissa != 0
        i += 1
    if i == start or (byte_at(data, start) == 48 and i > start + 1):
        return np.nan, -1
    if byte_at(data, i) == 46:
        i += 1
        point = i
        while 48 <= byte_at(data, i) <= 57:
            mantissa = mantissa * 10 + byte_at(data, i) - 48
            digits += mantissa != 0
            i += 1
        power = point - i
        if power == 0:
            return np.nan, -1
    if byte_at(data, i) | 32 == 101:
        exponent, i = _exponent(data, i + 1)
        power += exponent
    if i < 0 or digits > _DIGITS_MAX:
        return np.nan, -1
    value, i = _rounded(mantissa, power, i)
    return value, i


@numba.njit(nogil=True)
def _exponent(data: NDArray[np.uint8], i: int) -> tuple[int, int]:
    sign = -1 if byte_at(data, i) == 45 else 1
    if byte_at(data, i) == 45 or byte_at(data, i) == 43:
        i += 1
    start, exponent = i, 0
    while 48 <= byte_at(data, i) <= 57 and exponent < _EXPONENT_MAX:
        exponent = exponent * 10 + byte_at(data, i) - 48
        i += 1
    return sign * exponent, -1 if i == start or exponent >= _EXPONENT_MAX else i


@numba.njit(nogil=True)
def _rounded(mantissa: int, power: int, i: int) -> tuple[float, int]:
    if mantissa >= _EXACT_MAX or not -_POWER_MAX <= power <= _POWER_MAX:
        return np.nan, -1
    if power < 0:
        return mantissa / _POWERS[-power], i
    return mantissa * _POWERS[power], i
