"""Why a figure doesn't count: the host of a virtual machine gave the cores to others, or the loader was late itself.

A host takes cores away in bursts, which Linux calls steal. So what is measured is looked at second by second and counts
in the seconds in which nothing was taken: they are chosen by what the kernel says of the host, never by the figure.
What a burst left behind falls into the seconds after it, and counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray

from bench.cluster import cpu_s

COUNTED_S_MIN = 10
LOADER_LATE_MS_MAX = 2.0
STOLEN_PCT_MAX = 1.0
"""Of the cores' time, where a measurement can't be taken apart into seconds. A convention of ours."""


class Seconds(NamedTuple):
    """What each of n seconds took of the machine, shapes (n,)."""

    stolen_s: NDArray[np.float64]  # of all cores together
    used_s: NDArray[np.float64]  # by the process measured

    @property
    def is_quiet(self) -> NDArray[np.bool_]:
        """Whether the host took none of the cores' time that Linux counts, which is 10 ms of a core."""
        return self.stolen_s < 0.005

    @property
    def stolen_pct(self) -> float:
        """Return how much of the cores' time the host took."""
        return stolen_pct(float(self.stolen_s.sum()), self.stolen_s.size)


def each_second(process: psutil.Process, until: Callable[[int], None], n: int) -> Seconds:
    """Watch a process and the host for n seconds; `until(s)` comes back s seconds after the start."""
    stolen, used = [], []
    for second in range(n + 1):
        until(second)
        stolen.append(steal_s())
        used.append(cpu_s(process))
    return Seconds(np.diff(stolen), np.diff(used))


def steal_s() -> float:
    """Return the seconds of all cores that a virtual machine's host has given to others; 0 where no one says."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def stolen_pct(stolen_s: float, wall_s: float) -> float:
    """Return `stolen_s` of all cores as a share of their time."""
    return round(100.0 * stolen_s / (wall_s * psutil.cpu_count()), 2)


def too_few(seconds: Seconds) -> str | None:
    """Return why so many seconds are no measurement, None if enough of them count."""
    quiet = int(np.count_nonzero(seconds.is_quiet))
    if quiet >= COUNTED_S_MIN:
        return None
    return f"the host left the cores alone in {quiet} of {seconds.stolen_s.size} seconds, at least {COUNTED_S_MIN}"


def stolen(pct: float) -> str | None:
    """Return why a measurement that counts as a whole doesn't."""
    if pct <= STOLEN_PCT_MAX:
        return None
    return f"the host gave {pct:g} % of the cores' time to others, at most {STOLEN_PCT_MAX:g}"


def late_loader(p99_ms: float) -> str | None:
    """Return why what a loader sent doesn't count, None if it kept its schedule."""
    if p99_ms <= LOADER_LATE_MS_MAX:
        return None
    return f"the loader itself was {p99_ms} ms late at p99, at most {LOADER_LATE_MS_MAX:g}"
