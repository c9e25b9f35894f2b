"""What training is to predict of each row, and the names of the parts that rows may be in.

A target is never the rule label of its own row: a model of that only learns the rules back. Parts differ in time and in
links, never at random: neighbouring rows are near copies, and a model would be examined on what it was taught.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import CLASSES

HORIZON_MS = 3_600_000
"""How far ahead a target looks."""
LONGEST_WINDOW_MS = 3_600_000
"""The longest window of the features: rows closer than this share events."""

HARD_DOWN = len(CLASSES)
"""Target code of an outcome that is no class: it counts for risk, and the classifier doesn't see it."""
TARGET_NAMES = (*CLASSES, "hard_down")

TRAIN, VALIDATION, TEST = 0, 1, 2


class Incidents(NamedTuple):
    """What really happened, in any order; m incidents."""

    stream: NDArray[np.int64]  # (m,) code of the stream, the same codes as the rows'
    start: NDArray[np.int64]  # (m,) ms
    end: NDArray[np.int64]  # (m,) ms, first moment after it; the largest int64 while it lasts
    code: NDArray[np.int8]  # (m,) index into `TARGET_NAMES`, never healthy


class Targets(NamedTuple):
    """What is to be predicted of n rows."""

    code: NDArray[np.int8]  # (n,) index into `TARGET_NAMES`
    incident: NDArray[np.int64]  # (n,) index of the incident, -1 where healthy
    lead_ms: NDArray[np.int64]  # (n,) from the row to the incident's start, below 0 while under way; 0 where healthy

    def at(self, rows: NDArray[np.integer]) -> "Targets":
        """Return the targets of some of the rows, shape (m,)."""
        return Targets(self.code[rows], self.incident[rows], self.lead_ms[rows])


def targets(
    stream: NDArray[np.int64], ts: NDArray[np.int64], incidents: Incidents, horizon_ms: int = HORIZON_MS
) -> Targets:
    """Return each row's target: the incident under way at t, else the first to start in (t, t + horizon], else healthy.

    `stream` and `ts` (ms) have shape (n,), in any order. Of two incidents under way the one that started first counts.

    >>> incidents = Incidents(*(np.array([x]) for x in (0, 7_200_000, 9_000_000)), np.array([5], np.int8))
    >>> ts = np.array([3_599_999, 3_600_000, 7_200_000, 8_999_999, 9_000_000])
    >>> targets(np.zeros(5, np.int64), ts, incidents).code.tolist()
    [0, 5, 5, 5, 0]
    """
    # By start, an incident under way stands before every one still to come: so the target is the first that is not
    # over. The running maximum of the ends first exceeds t at the first end that does, and it is sorted. Stream and
    # time make one number, so that one search serves all streams.
    order = np.lexsort((incidents.start, incidents.stream))
    origin, span = (int(ts.min()), int(np.ptp(ts)) + 2) if len(ts) else (0, 2)
    ends = incidents.stream[order] * span + np.clip(incidents.end[order] - origin, 0, span - 1)
    first = np.searchsorted(np.maximum.accumulate(ends), stream * span + (ts - origin), side="right")
    rank = np.append(order, -1)[first]
    rank = np.where(np.append(incidents.stream, -1)[rank] == stream, rank, -1)
    lead_ms = np.where(rank >= 0, np.append(incidents.start, 0)[rank] - ts, 0)
    is_target = (rank >= 0) & (lead_ms <= horizon_ms)
    return Targets(
        code=np.where(is_target, np.append(incidents.code, 0)[rank], 0).astype(np.int8),
        incident=np.where(is_target, rank, -1),
        lead_ms=np.where(is_target, lead_ms, 0),
    )
