"""Decimal numbers in JSON to the nearest float64, compiled; what can't be rounded right at once is left to others."""

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined
from streams.wire.bounded_bytes import byte_at

_DIGITS_MAX = 18  # of what is not a leading zero: the most that an int64 surely holds
_EXACT_MAX = 1 << 53  # up to here each whole number is a float64
_POWER_MAX = 22  # 10**22 is the last power of ten that is a float64
_POWERS = np.array([float(10**p) for p in range(_POWER_MAX + 1)])
_POWER_MIN = -64  # of the table below: metrics are no smaller, but for a freak
_EXPONENT_MAX = 400


def _leading_128_bits(power: int) -> tuple[int, int]:
    """Return the first 128 bits of 10**power, high and low word, cut off and not rounded."""
    bits = 10**power << 128 if power >= 0 else (1 << 512) // 10**-power
    bits >>= bits.bit_length() - 128
    return bits >> 64, bits & (1 << 64) - 1


_POWER_BITS = np.array([_leading_128_bits(p) for p in range(_POWER_MIN, _POWER_MAX + 1)], np.uint64)
_LOW_32, _LOW_9, _1, _3, _32 = (np.uint64(n) for n in (0xFFFFFFFF, 0x1FF, 1, 3, 32))
_TOP, _MANTISSA = np.uint64(1 << 63), np.uint64((1 << 52) - 1)


@bounded_inlined
def number(data: NDArray[np.uint8], i: int) -> tuple[float, int]:
    """Return the number ≥ 0 at `i` and the place after it; the place is -1 for what is none, or not easily read.

    With a mantissa below 2⁵³ and a power of ten within ±22 both are exact, so that one multiplication or division
    rounds once and right (Clinger, "How to read floating point numbers accurately", PLDI 1990). Else the product with
    the first 128 bits of the power decides, where it can: Lemire, "Number parsing at a gigabyte per second" (2021).
    """
    start, mantissa, digits, power, byte = i, 0, 0, 0, byte_at(data, i)
    while 48 <= byte <= 57:
        mantissa = mantissa * 10 + byte - 48
        digits += mantissa != 0
        i += 1
        byte = byte_at(data, i)
    if i == start or (byte_at(data, start) == 48 and i > start + 1):
        return np.nan, -1
    if byte == 46:
        i += 1
        point, byte = i, byte_at(data, i)
        while 48 <= byte <= 57:
            mantissa = mantissa * 10 + byte - 48
            digits += mantissa != 0
            i += 1
            byte = byte_at(data, i)
        power = point - i
        if power == 0:
            return np.nan, -1
    if byte | 32 == 101:
        exponent, i = _exponent(data, i + 1)
        power += exponent
    if i < 0 or digits > _DIGITS_MAX:
        return np.nan, -1
    value, i = _rounded(mantissa, power, i)
    return value, i


@bounded_inlined
def _exponent(data: NDArray[np.uint8], i: int) -> tuple[int, int]:
    sign = -1 if byte_at(data, i) == 45 else 1
    if byte_at(data, i) == 45 or byte_at(data, i) == 43:
        i += 1
    start, exponent = i, 0
    while 48 <= byte_at(data, i) <= 57 and exponent < _EXPONENT_MAX:
        exponent = exponent * 10 + byte_at(data, i) - 48
        i += 1
    return sign * exponent, -1 if i == start or exponent >= _EXPONENT_MAX else i


@bounded_inlined
def _rounded(mantissa: int, power: int, i: int) -> tuple[float, int]:
    if mantissa < _EXACT_MAX and -_POWER_MAX <= power <= _POWER_MAX:
        return (mantissa / _POWERS[-power] if power < 0 else mantissa * _POWERS[power]), i
    if mantissa == 0 or not _POWER_MIN <= power <= _POWER_MAX:
        return np.nan, -1
    value = _by_product(np.uint64(mantissa), power)
    return value, -1 if np.isnan(value) else i


@bounded_inlined
def _by_product(mantissa: np.uint64, power: int) -> float:
    """Return mantissa · 10**power, NaN where 128 bits don't decide how it rounds; as Go's `eiselLemire64` does."""
    exponent = (217706 * power >> 16) + 64 + 1023
    while mantissa < _TOP:
        mantissa <<= _1
        exponent -= 1
    high, low = _product(mantissa, _POWER_BITS[power - _POWER_MIN, 0])
    if high & _LOW_9 == _LOW_9 and low + mantissa < mantissa:
        more_high, more_low = _product(mantissa, _POWER_BITS[power - _POWER_MIN, 1])
        low += more_high
        if low < more_high:
            high += _1
        if high & _LOW_9 == _LOW_9 and low + _1 == 0 and more_low + mantissa < mantissa:
            return np.nan
    top = high >> np.uint64(63)
    bits = high >> (top + np.uint64(9))  # 54 of them: the last one rounds
    exponent -= 1 - int(np.int64(top))
    if low == 0 and high & _LOW_9 == 0 and bits & _3 == _1:
        return np.nan  # as near to one as to the other
    bits = (bits + (bits & _1)) >> _1
    if bits >> np.uint64(53) > 0:
        bits >>= _1
        exponent += 1
    found: np.float64 = np.uint64(np.uint64(exponent) << np.uint64(52) | bits & _MANTISSA).view(np.float64)
    return found


@bounded_inlined
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the high and the low word of a product of 128 bits."""
    low, middle = (a & _LOW_32) * (b & _LOW_32), (a >> _32) * (b & _LOW_32)
    other = (a & _LOW_32) * (b >> _32) + (low >> _32) + (middle & _LOW_32)
    return (a >> _32) * (b >> _32) + (middle >> _32) + (other >> _32), a * b
