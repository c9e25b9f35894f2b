"""What every kind of recording becomes: chunks of columns, and the lines that are no events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import METRICS, DeadReason, LinkcastError, MetricEvent
from streams.wire.events import is_stream_id

FIELDS = frozenset(("v", "stream_id", "ts", *METRICS))
"""The columns of a table that are read."""


class RecordingUnreadable(LinkcastError):
    """A file that can't be read on: not there, of an unknown kind, damaged, or without the columns of an event."""


class BadLine(NamedTuple):
    """What was no event: its line or row, from 1, and its place from 0 where the line is a sweep."""

    path: str
    line: int
    element: int | None
    reason: DeadReason
    detail: str

    def __str__(self) -> str:
        element = "" if self.element is None else f"[{self.element}]"
        return f"{self.path}:{self.line}{element}: {self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some n events of a recording in the order of the file, and the lines among them that are none.

    Attributes
    ----------
    names
        The stream ids met so far, by first appearance; all chunks of one `read` share the list, and it grows.
    streams, ts, metrics
        int32 `(n,)` index into `names`; int64 `(n,)` event time in ms; float64 `(n, 12)` in the order of
        `contract.METRICS`, NaN where missing.
    extras
        The `extra` of the few rows that carry one.
    """

    names: list[str]
    streams: NDArray[np.int32]
    ts: NDArray[np.int64]
    metrics: NDArray[np.float64]
    extras: dict[int, dict[str, float]] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ts)

    def events(self) -> list[MetricEvent]:
        """Return the rows as events."""
        told = np.where(np.isnan(self.metrics), np.array(None), self.metrics).T.tolist()
        rows = zip(range(len(self)), self.streams.tolist(), self.ts.tolist(), *told, strict=True)
        return [
            # By name, for `**dict(zip(…))` takes three times as long.
            MetricEvent(
                stream_id=self.names[stream],
                ts=ts,
                latency_p99=latency,
                utilization=utilization,
                error_rate=errors,
                bandwidth_gbps=bandwidth,
                qp_errors=qp,
                mr_failures=mr,
                symbol_errors=symbols,
                recoveries=recoveries,
                link_downed=downed,
                remote_errors=remote,
                discards=discards,
                stall=stall,
                extra=self.extras.get(row),
            )
            for row, stream, ts, latency, utilization, errors, bandwidth, qp, mr, symbols, recoveries, downed, remote,
            discards, stall in rows
        ]  # fmt: skip


class Codes(dict[str, int]):
    """Stream ids to their codes: 0, 1, 2 … by first appearance, and -1 for what can't be an id."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, stream_id: str) -> int:
        if not is_stream_id(stream_id):
            return -1
        self[stream_id] = code = len(self.names)
        self.names.append(stream_id)
        return code

    def of(self, stream_ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the code of each id, shape (n,)."""
        return np.fromiter(map(self.__getitem__, stream_ids), np.int32, len(stream_ids))


def check_columns(path: str, names: Sequence[str]) -> None:
    """Raise `RecordingUnreadable` unless a table has the columns that an event can't do without, and none twice."""
    if not {"stream_id", "ts"} <= set(names) or not set(names) & set(METRICS):
        raise RecordingUnreadable(
            f"{path}: the columns {', '.join(names)[:200]!r} have to name stream_id, ts and a metric; "
            f"the metrics are {', '.join(METRICS)}"
        )
    for name in FIELDS:
        if names.count(name) > 1:
            raise RecordingUnreadable(f"{path}: the columns {', '.join(names)[:200]!r} name {name} twice: rename one")
