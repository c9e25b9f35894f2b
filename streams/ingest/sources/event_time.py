"""The times that sources write, in whatever unit, as event time."""

from collections.abc import Mapping
from pathlib import Path

from streams.contract import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN
from streams.ingest.sources.collect import Oddities

UNITS_MS: Mapping[str, float] = {"s": 1e3, "ms": 1.0, "µs": 1e-3, "ns": 1e-6}


def event_time_ms(written: float, path: Path, odd: Oddities, *, usual: str) -> float | None:
    """Return a time in ms since 1970, to 10 µs, or None if it is none from 2000 to 2100 in any unit.

    A time of these hundred years tells its unit by its size: no number is one in two of `UNITS_MS`. Where it isn't the
    `usual` one, or is none, that is noted.

    >>> event_time_ms(1767261600.125, Path("a"), Oddities(), usual="s")
    1767261600125.0
    """
    for unit, ms in UNITS_MS.items():
        if EVENT_TIME_MS_MIN / ms <= written <= EVENT_TIME_MS_MAX / ms:
            if unit != usual:
                odd.note(path, f"has times that can't be in {usual}: they are read as {unit}", written)
            return round(written * ms, 2)
    odd.note(path, "has times that are none from 2000 to 2100 in any unit: the file's own stands in", written)
    return None
