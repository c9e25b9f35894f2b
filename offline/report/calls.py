"""Calls against the truth, counted by incident and not by row: called before it started, or a false alarm.

A call is an episode that opened on a stream. It stands for an incident that strikes its stream, if it opened within the
horizon before the start or while the incident was under way; an incident is *called before* if a call on any of its
streams opened before its start. A call that stands for none is a false alarm, unless an incident of its stream ended
less than the cool-down ago: windows still hold it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.dataset.targets import HORIZON_MS
from offline.simulator.truth import Incident
from online.episodes import CHANGES, Episodes

COOL_DOWN_MS = 1_800_000


class Call(NamedTuple):
    """An episode that opened."""

    stream_id: str
    opened_at: int  # ms, event time


class Watched(NamedTuple):
    """All n rows of some streams, as they came, and what struck those streams."""

    stream: NDArray[np.int64]  # (n,) index into `stream_ids`
    ts: NDArray[np.int64]  # (n,) ms, rising within a stream
    stream_ids: list[str]
    incidents: list[Incident]


class Report(NamedTuple):
    """How calls and incidents met."""

    incidents: int
    called_before: dict[str, int]  # incident → lead in ms, of the earliest call on any of its streams
    detected: int  # incidents called before or while they lasted
    false_alarms: list[Call]


def calls_at(watched: Watched, risk: NDArray[np.float64]) -> list[Call]:
    """Return the episodes that risk, shape (n,), 0 to 100, would have opened live."""
    change, _ = Episodes().advance(watched.stream, watched.ts, risk)
    opened = np.flatnonzero(change == CHANGES.index("opened"))
    return [Call(watched.stream_ids[watched.stream[i]], int(watched.ts[i])) for i in opened]


def report(calls: Iterable[Call], incidents: Iterable[Incident]) -> Report:
    """Match calls with incidents; linear in both but for the incidents of one stream.

    >>> incident = Incident(incident="i", class_="latency_spike", start_ms=7_200_000, end_ms=7_300_000,
    ...                     streams=("leaf/1", "leaf/2"), precursor_start_ms=None)
    >>> found = report([Call("leaf/1", 7_000_000), Call("leaf/2", 7_250_000), Call("leaf/3", 7_000_000)], [incident])
    >>> found.called_before, found.detected, found.false_alarms
    ({'i': 200000}, 1, [Call(stream_id='leaf/3', opened_at=7000000)])
    """
    incidents = list(incidents)
    of_stream: dict[str, list[Incident]] = {}
    for incident in incidents:
        for stream_id in incident.streams:
            of_stream.setdefault(stream_id, []).append(incident)
    leads: dict[str, int] = {}
    detected: set[str] = set()
    false_alarms: list[Call] = []
    for call in calls:
        struck = of_stream.get(call.stream_id, [])
        meant = [i for i in struck if i.start_ms - HORIZON_MS <= call.opened_at < i.end_ms]
        for incident in meant:
            detected.add(incident.incident)
            if (lead := incident.start_ms - call.opened_at) > 0:
                leads[incident.incident] = max(lead, leads.get(incident.incident, 0))
        if not meant and not any(0 <= call.opened_at - i.end_ms < COOL_DOWN_MS for i in struck):
            false_alarms.append(call)
    return Report(len(incidents), leads, len(detected), false_alarms)
