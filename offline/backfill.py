"""Features and rule labels of recorded events, without a broker: the worker's own kernel over files or columns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import METRICS, MetricEvent
from streams.features import Columns, StreamTable
from streams.labels import RuleTable


class Backfill(NamedTuple):
    """What the kernel made of n events, with m rows; see `streams.features.Rows`."""

    disposition: NDArray[np.int8]  # (n,)
    rows: NDArray[np.intp]  # (m,) index of each row's event
    features: NDArray[np.float32]  # (m, 24)
    label: NDArray[np.int8]  # (m,)
    rule_risk: NDArray[np.float64]  # (m,)
    confidence: NDArray[np.float64]  # (m,)
    needs_review: NDArray[np.bool_]  # (m,)


def backfill_columns(
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    metrics: NDArray[np.float64],
    *,
    stream_ids: Sequence[str],
    time_zone: str = "UTC",
    rules: RuleTable | None = None,
) -> Backfill:
    """Run the kernel over events in arrival order: index into `stream_ids`, ms, and metrics of shape (n, 6)."""
    table = StreamTable(time_zone=time_zone, rules=rules, streams_max=max(1, len(stream_ids)))
    disposition, rows = table.advance(Columns(table.slots(stream_ids)[slot], ts, metrics))
    return Backfill(disposition, *rows)


def backfill_events(
    events: Sequence[MetricEvent], *, time_zone: str = "UTC", rules: RuleTable | None = None
) -> Backfill:
    """Run the kernel over events in arrival order."""
    stream_ids = list(dict.fromkeys(event.stream_id for event in events))
    slot = {stream_id: i for i, stream_id in enumerate(stream_ids)}
    return backfill_columns(
        np.array([slot[event.stream_id] for event in events], np.int64),
        np.array([event.ts for event in events], np.int64),
        np.array([[getattr(event, m) for m in METRICS] for event in events], np.float64).reshape(-1, len(METRICS)),
        stream_ids=stream_ids,
        time_zone=time_zone,
        rules=rules,
    )
