"""Randomness by name: each decision of the simulator has a stream of its own.

So the fabric of a seed is the same for any number of processes and any cut of time, and a change to one part of the
simulator leaves the draws of the others alone.
"""

from collections.abc import Iterator
from zlib import crc32

import numpy as np

MINUTE_MS = 60_000
YEAR_MS = 365.25 * 86_400_000


def draws(seed: int, *name: str | int) -> np.random.Generator:
    """Return the stream of draws called `name` of this seed (Philox, Salmon et al., SC 2011).

    >>> int(draws(1, "jobs", 7).integers(100)) == int(draws(1, "jobs", 7).integers(100))
    True
    """
    key = [seed, *(part if isinstance(part, int) else crc32(part.encode()) for part in name)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def arrivals(draw: np.random.Generator, *, per_year: float, start_ms: int, end_ms: int) -> Iterator[int]:
    """Yield the event times of a Poisson process in [start_ms, end_ms), ms; a later end only adds to them."""
    if per_year <= 0:
        return
    t = float(start_ms)
    while (t := t + draw.exponential(YEAR_MS / per_year)) < end_ms:
        yield int(t)


def lognormal_ms(draw: np.random.Generator, *, median_min: float, sigma: float) -> int:
    """Draw a log-normal duration, ms, at least one second."""
    return max(1_000, int(MINUTE_MS * median_min * np.exp(sigma * draw.standard_normal())))
