"""Hour and weekday in the fabric's time zone, as a table that compiled code can search.

The zone's rules become the list of its transitions once, at start; per event it is one comparison.
"""

from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined
from streams.contract import EVENT_TIME_MS_MAX, LinkcastError

_DAY_S = 86_400


class UnknownTimeZone(LinkcastError):
    """The IANA data base on this machine has no zone of that name."""


class Transitions(NamedTuple):
    """Offsets of local time from UTC: from `since[i]` on it is `offset[i]`; both int64 milliseconds, shape (k,)."""

    since: NDArray[np.int64]
    offset: NDArray[np.int64]


class Offset(NamedTuple):
    """An offset of local time from UTC, and the times it holds for: all in ms, `until` not included."""

    since: int
    until: int
    offset: int


@cache
def transitions(time_zone: str) -> Transitions:
    """Return every change of offset of an IANA zone over the event times of the contract, 1970 to 2100.

    Raises `UnknownTimeZone`. A zone that changes twice within one day and back would be missed; none does.

    >>> transitions("UTC").offset.tolist()
    [0]
    >>> transitions("Asia/Kathmandu").offset[-1] / 3_600_000
    np.float64(5.75)
    """
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError) as error:
        raise UnknownTimeZone(
            f"time zone {time_zone!r} is not in the IANA data base of this machine: "
            "use a name such as Europe/Berlin, or install the tzdata package"
        ) from error

    def offset_s(at_s: int) -> int:
        shift = datetime.fromtimestamp(at_s, UTC).astimezone(zone).utcoffset()
        assert shift is not None
        return round(shift.total_seconds())

    since, offsets = [0], [offset_s(0)]
    for day_s in range(_DAY_S, EVENT_TIME_MS_MAX // 1000 + 1, _DAY_S):
        if offset_s(day_s) != offsets[-1]:
            before, after = day_s - _DAY_S, day_s
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if offset_s(middle) == offsets[-1] else (before, middle)
            since.append(after)
            offsets.append(offset_s(after))
    return Transitions(np.array(since, np.int64) * 1000, np.array(offsets, np.int64) * 1000)


@inlined
def offset_at(calendar: Transitions, ts: int) -> Offset:
    """Return the offset at `ts` and how long it holds: whoever keeps it need not search again for months."""
    i = np.searchsorted(calendar.since, ts, side="right") - 1
    until = calendar.since[i + 1] if i + 1 < calendar.since.size else EVENT_TIME_MS_MAX + 1
    return Offset(calendar.since[i], until, calendar.offset[i])
