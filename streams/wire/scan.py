"""The usual form of a metric event, from JSON straight into columns: no Python object per event.

One compiled pass over the values of a fetch where they lie. It takes a record only where it is sure to give what
msgspec gives, bit for bit: known keys, each once, plain ASCII ids, values in range, numbers that the fast paths of
`streams.wire.decimal` round right. Anything else is "not mine" for that record alone, which `streams.wire.decode` then
takes the slow way: the scanner never rejects.
"""

from itertools import count

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined, bounded_kernel
from streams.contract import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, METRICS, STREAM_ID_BYTES_MAX
from streams.wire.bounded_bytes import byte_at
from streams.wire.decimal import number
from streams.wire.events import METRIC_MAX

TS, ID_START, ID_END, RECORD, ELEMENT, SEEN = range(6)
"""The rows of `places`."""

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(c) for c in '",:{}[]')
_SPACE, _TILDE, _BACKSLASH, _N, _U, _L = (ord(c) for c in " ~\\nul")

_KEYS = (*METRICS, "stream_id", "ts", "v")
_N_METRICS = len(METRICS)
_ID_KEY, _TS_KEY, _V_KEY = _N_METRICS, _N_METRICS + 1, _N_METRICS + 2
_NEEDED = (1 << _ID_KEY) | (1 << _TS_KEY)

_KEY_BYTES_MAX = 16


def _words(key: str) -> tuple[int, int]:
    """Return the bytes of a key as two words, the first byte lowest."""
    text = key.encode()
    assert len(text) <= _KEY_BYTES_MAX, f"{key}: the scanner holds keys in two words"
    return int.from_bytes(text[:8], "little"), int.from_bytes(text[8:], "little")


def _hashed() -> tuple[int, list[int]]:
    """Return a factor that gives each key a hash of 6 bits of its own, and these hashes."""
    words = [first ^ second for first, second in map(_words, _KEYS)]
    for factor in count(0x9E3779B97F4A7C15, 2):
        hashes = [(word * factor & (1 << 64) - 1) >> 58 for word in words]
        if len(set(hashes)) == len(hashes):
            return factor, hashes
    raise AssertionError("odd numbers have no end")


_KEY_WORDS = np.array([_words(key) for key in _KEYS], np.uint64)
_KEY_AT = np.full(64, -1, np.int64)
_factor, _hashes = _hashed()
_KEY_AT[_hashes] = range(len(_KEYS))
_FACTOR, _SHIFT, _8 = np.uint64(_factor), np.uint64(58), np.uint64(8)


@bounded_kernel
def scan(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], seen: NDArray[np.int64],
    places: NDArray[np.int64], metrics: NDArray[np.float64], is_mine: NDArray[np.uint8], ahead_ms_max: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Take what is usual among r records into the columns; return events taken, records left, and events ahead.

    `data` holds the values, from `starts` (r,) on and of `sizes` (r,), 0 or less for one that is to be left; no byte
    outside a value is read for it. The columns have room for an event a brace, and a record for whose events there is
    no room is left. They are filled in log order: `places` (6, room) with ts, start and end of the id in `data`,
    record, element and seen; `metrics` (room, 12). `is_mine` (r,) becomes 1 where the whole record was taken. `seen`
    (r,) is the broker's time of each record, ms: an event more than `ahead_ms_max` past it is counted.
    """
    n, left, ahead = 0, 0, 0
    for r in range(sizes.size):
        value = data[starts[r] : starts[r] + max(0, sizes[r])]
        before, i = n, _past_space(value, 0)
        is_sweep = byte_at(value, i) == _OPEN_ARRAY
        if is_sweep:
            i = _past_space(value, i + 1)
        while i >= 0:
            i = _event(value, i, n, places, metrics) if n < metrics.shape[0] else -1
            if i < 0:
                break
            places[ID_START, n] += starts[r]
            places[ID_END, n] += starts[r]
            places[RECORD, n], places[ELEMENT, n], places[SEEN, n] = r, n - before, seen[r]
            n += 1
            i = _past_space(value, i)
            if not is_sweep:
                break
            if byte_at(value, i) == _CLOSE_ARRAY:
                i = _past_space(value, i + 1)
                break
            i = _past_space(value, i + 1) if byte_at(value, i) == _COMMA else -1
        is_mine[r] = i == value.size and n > before
        if is_mine[r]:
            for k in range(before, n):
                ahead += places[TS, k] - seen[r] > ahead_ms_max
        else:
            n = before
            left += 1
    return n, left, ahead


@bounded_inlined
def _past_space(value: NDArray[np.uint8], i: int) -> int:
    while True:
        byte = byte_at(value, i)
        if byte > _SPACE or not (byte == _SPACE or byte == 10 or byte == 13 or byte == 9):
            return i
        i += 1


@bounded_inlined
def _event(value: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64], metrics: NDArray[np.float64]) -> int:
    """Read the event at `i` into column `n`; return the place after it, -1 where it isn't the usual form."""
    for m in range(_N_METRICS):
        metrics[n, m] = np.nan
    if byte_at(value, i) != _OPEN:
        return -1
    had, has_metric = 0, False
    while True:
        i = _past_space(value, i + 1)
        if byte_at(value, i) != _QUOTE:
            return -1
        key, i = _key(value, i + 1)
        if key < 0 or had >> key & 1:
            return -1
        had |= 1 << key
        if key < _N_METRICS:
            if byte_at(value, i) == _N:
                i = _past_null(value, i)
            else:
                number_, i = number(value, i)
                if not number_ <= METRIC_MAX[key]:
                    return -1
                metrics[n, key] = number_
                has_metric = True
        elif key == _ID_KEY:
            i = _stream_id(value, i, n, places)
        elif key == _TS_KEY:
            i = _event_time(value, i, n, places)
        else:
            i = i + 1 if byte_at(value, i) == 49 else -1  # 1.0 and 10 fail at what comes next
        if i < 0:
            return -1
        i = _past_space(value, i)
        byte = byte_at(value, i)
        if byte == _CLOSE:
            return i + 1 if has_metric and had & _NEEDED == _NEEDED else -1
        if byte != _COMMA:
            return -1


@bounded_inlined
def _key(value: NDArray[np.uint8], i: int) -> tuple[int, int]:
    """Return which key has its first letter at `i`, -1 for one that isn't ours, and the place of what it names."""
    first = second = shift = np.uint64(0)
    start, byte = i, byte_at(value, i)
    while byte != _QUOTE:
        if byte == 0 or i - start == _KEY_BYTES_MAX:
            return -1, -1
        if i - start == 8:
            first, second, shift = second, np.uint64(0), np.uint64(0)
        second |= np.uint64(byte) << shift
        shift += _8
        i += 1
        byte = byte_at(value, i)
    if i - start <= 8:
        first, second = second, np.uint64(0)
    key = _KEY_AT[(first ^ second) * _FACTOR >> _SHIFT]
    if key < 0 or _KEY_WORDS[key, 0] != first or _KEY_WORDS[key, 1] != second or byte_at(value, i + 1) != _COLON:
        return -1, -1
    return key, _past_space(value, i + 2)


@bounded_inlined
def _past_null(value: NDArray[np.uint8], i: int) -> int:
    is_null = byte_at(value, i + 1) == _U and byte_at(value, i + 2) == _L and byte_at(value, i + 3) == _L
    return i + 4 if is_null else -1


@bounded_inlined
def _stream_id(value: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64]) -> int:
    if byte_at(value, i) != _QUOTE:
        return -1
    i += 1
    start, byte = i, byte_at(value, i)
    while _SPACE <= byte <= _TILDE and byte != _QUOTE and byte != _BACKSLASH:
        i += 1
        byte = byte_at(value, i)
    places[ID_START, n], places[ID_END, n] = start, i
    return i + 1 if byte == _QUOTE and 0 < i - start <= STREAM_ID_BYTES_MAX else -1


@bounded_inlined
def _event_time(value: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64]) -> int:
    start, ts, byte = i, 0, byte_at(value, i)
    while 48 <= byte <= 57 and i - start < 14:
        ts = ts * 10 + byte - 48
        i += 1
        byte = byte_at(value, i)
    places[TS, n] = ts
    has_leading_zero = byte_at(value, start) == 48 and i > start + 1
    if i == start or has_leading_zero or ts < EVENT_TIME_MS_MIN or ts > EVENT_TIME_MS_MAX:
        return -1
    return i
