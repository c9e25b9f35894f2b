"""The usual form of a metric event, from JSON straight into columns: no Python object per event.

One compiled pass over the values of a fetch where they lie. It takes a record only where it is sure to give what
msgspec gives, bit for bit: known keys, each once, plain ASCII ids, values in range, numbers that the fast paths of
`streams.decimal` round right. Anything else is "not mine" for that record alone, which `streams.decode` then takes the
slow way: the scanner never rejects.
"""

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.contract import EVENT_TIME_MS_MAX, METRICS, STREAM_ID_BYTES_MAX
from streams.decimal import number
from streams.raw_bytes import byte_at, word_at

TS, ID_START, ID_END, RECORD, ELEMENT, SEEN = range(6)
"""The rows of `places`."""

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(c) for c in '",:{}[]')
_SPACE, _TILDE, _BACKSLASH = ord(" "), ord("~"), ord("\\")

_KEYS = (*METRICS, "stream_id", "ts", "v")
_N_METRICS = len(METRICS)
_ID_KEY, _TS_KEY, _V_KEY = _N_METRICS, _N_METRICS + 1, _N_METRICS + 2
_NEEDED = (1 << _ID_KEY) | (1 << _TS_KEY)
METRIC_MAX = np.array([1e12, 100.0, 1.0, 1e12, 1e12, 1e12])
"""The upper bounds of the metrics in `contract.MetricEvent`, in the order of `contract.METRICS`."""


def _words(texts: list[bytes]) -> NDArray[np.uint64]:
    """Return texts of at most 16 bytes as two words each, shape (len(texts), 2)."""
    return np.array([[int.from_bytes(text[at : at + 8], "little") for at in (0, 8)] for text in texts], np.uint64)


_KEY_WORDS = _words([f'{key}":'.encode() for key in _KEYS])
_KEY_MASKS = _words([b"\xff" * (len(key) + 2) for key in _KEYS])
_KEY_SIZES = np.array([len(key) + 2 for key in _KEYS])
# No two keys begin alike, so the first letter says which one it must be.
_KEY_AT = np.full(256, -1, np.int64)
_KEY_AT[[ord(key[0]) for key in _KEYS]] = range(len(_KEYS))
_NULL, _NULL_MASK = np.uint64(int.from_bytes(b"null", "little")), np.uint64(0xFFFFFFFF)


@kernel
def scan(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], seen: NDArray[np.int64],
    places: NDArray[np.int64], metrics: NDArray[np.float64], is_mine: NDArray[np.uint8], ahead_ms_max: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Take what is usual among r records into the columns; return events taken, records left, and events ahead.

    `data` holds the values, from `starts` (r,) on and of `sizes` (r,), and ends with 16 zeros: a loop that reads past
    its value ends there at the latest, and what it found is not taken. The columns have room for an event a brace and
    one more, and are filled in log order: `places` (6, room) with ts, start and end of the id in `data`, record,
    element and seen; `metrics` (room, 6). `is_mine` (r,) becomes 1 where the whole record was taken. `seen` (r,) is the
    broker's time of each record, ms: an event more than `ahead_ms_max` past it is counted.
    """
    n, left, ahead = 0, 0, 0
    for r in range(sizes.size):
        start, end = starts[r], starts[r] + sizes[r]
        i = _past_space(data, start)
        before, is_sweep = n, byte_at(data, i) == _OPEN_ARRAY
        if is_sweep:
            i = _past_space(data, i + 1)
        while i >= 0:
            i = _event(data, i, n, places, metrics)
            if i < 0:
                break
            places[RECORD, n], places[ELEMENT, n], places[SEEN, n] = r, n - before, seen[r]
            n += 1
            i = _past_space(data, i)
            if not is_sweep:
                break
            if byte_at(data, i) == _CLOSE_ARRAY:
                i = _past_space(data, i + 1)
                break
            i = _past_space(data, i + 1) if byte_at(data, i) == _COMMA else -1
        is_mine[r] = i == end
        if i == end:
            for k in range(before, n):
                ahead += places[TS, k] - seen[r] > ahead_ms_max
        else:
            n = before
            left += 1
    return n, left, ahead


@inlined
def _past_space(data: NDArray[np.uint8], i: int) -> int:
    while byte_at(data, i) <= _SPACE and (
        byte_at(data, i) == _SPACE or byte_at(data, i) == 10 or byte_at(data, i) == 13 or byte_at(data, i) == 9
    ):
        i += 1
    return i


@inlined
def _event(data: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64], metrics: NDArray[np.float64]) -> int:
    """Read the event at `i` into column `n`; return the place after it, -1 where it isn't the usual form."""
    for m in range(_N_METRICS):
        metrics[n, m] = np.nan
    if byte_at(data, i) != _OPEN:
        return -1
    had, has_metric = 0, False
    while True:
        i = _past_space(data, i + 1)
        if byte_at(data, i) != _QUOTE:
            return -1
        key = _KEY_AT[byte_at(data, i + 1)]
        if key < 0 or had >> key & 1:
            return -1
        i = _past_key(data, i + 1, key)
        if i < 0:
            return -1
        had |= 1 << key
        if key < _N_METRICS:
            if word_at(data, i) & _NULL_MASK == _NULL:
                i += 4
            else:
                value, i = number(data, i)
                if not value <= METRIC_MAX[key]:
                    return -1
                metrics[n, key] = value
                has_metric = True
        elif key == _ID_KEY:
            i = _stream_id(data, i, n, places)
        elif key == _TS_KEY:
            i = _event_time(data, i, n, places)
        else:
            i = i + 1 if byte_at(data, i) == 49 else -1  # 1.0 and 10 fail at what comes next
        if i < 0:
            return -1
        i = _past_space(data, i)
        if byte_at(data, i) == _CLOSE:
            return i + 1 if has_metric and had & _NEEDED == _NEEDED else -1
        if byte_at(data, i) != _COMMA:
            return -1


@inlined
def _past_key(data: NDArray[np.uint8], i: int, key: int) -> int:
    """Return the place of the value of `key`, whose first letter is at `i`; -1 where it is another key."""
    if (word_at(data, i) ^ _KEY_WORDS[key, 0]) & _KEY_MASKS[key, 0]:
        return -1
    if (word_at(data, i + 8) ^ _KEY_WORDS[key, 1]) & _KEY_MASKS[key, 1]:
        return -1
    return int(_past_space(data, i + _KEY_SIZES[key]))


@inlined
def _stream_id(data: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64]) -> int:
    if byte_at(data, i) != _QUOTE:
        return -1
    i += 1
    places[ID_START, n] = i
    while (
        byte_at(data, i) >= _SPACE
        and byte_at(data, i) <= _TILDE
        and byte_at(data, i) != _QUOTE
        and byte_at(data, i) != _BACKSLASH
    ):
        i += 1
    size = i - places[ID_START, n]
    places[ID_END, n] = i
    return i + 1 if byte_at(data, i) == _QUOTE and 0 < size <= STREAM_ID_BYTES_MAX else -1


@inlined
def _event_time(data: NDArray[np.uint8], i: int, n: int, places: NDArray[np.int64]) -> int:
    start, ts = i, 0
    while 48 <= byte_at(data, i) <= 57 and i - start < 14:
        ts = ts * 10 + byte_at(data, i) - 48
        i += 1
    places[TS, n] = ts
    has_leading_zero = byte_at(data, start) == 48 and i > start + 1
    if i == start or has_leading_zero or ts > EVENT_TIME_MS_MAX:
        return -1
    return i
