"""The owner of one partition of `metrics`: fetched records in, rows of features out. No clock, no Kafka client."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import DeadReason
from streams.decode import Decoded, Record, Rejected, decode, event_bytes
from streams.features import LATE, REPEAT, TOO_LATE, Columns, Rows
from streams.stream_table import StreamTable
from streams.windows import LATENESS_MS


class Advanced(NamedTuple):
    """What one fetch became. Each of its events is a row, late, a repeat or rejected."""

    rows: Rows
    stream_id: list[str]  # of each row
    slot: NDArray[np.int64]  # of each row's stream
    ts: NDArray[np.int64]  # event time of each row, ms
    offset: NDArray[np.int64]  # of each row's record
    element: NDArray[np.intp]  # of each row's event in its record
    rejected: list[Rejected]
    late: int
    repeats: int


class Message(NamedTuple):
    """A record to be sent."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


def advance(table: StreamTable, records: Sequence[Record]) -> Advanced:
    """Take a partition's next records in log order; `table` moves on."""
    decoded, rejected = decode(records)
    slot = table.slots(decoded.stream_id)
    is_known = slot >= 0
    if not is_known.all():
        _reject(records, decoded, ~is_known, "too_many_streams", f"this partition holds {len(table.ids)}", rejected)
        decoded, slot = decoded.only(is_known), slot[is_known]
    disposition, rows = table.advance(Columns(slot, decoded.ts, decoded.metrics, np.zeros(len(slot), np.int64)))
    too_late = disposition == TOO_LATE
    if too_late.any():
        detail = f"more than {LATENESS_MS // 1000} s behind its stream's newest event"
        _reject(records, decoded, too_late, "too_late", detail, rejected)
    offset = np.fromiter((record.offset for record in records), np.int64, len(records))
    return Advanced(
        rows=rows,
        stream_id=[decoded.stream_id[i] for i in rows.event],
        slot=slot[rows.event],
        ts=decoded.ts[rows.event],
        offset=offset[decoded.record[rows.event]],
        element=decoded.element[rows.event],
        rejected=rejected,
        late=int(np.count_nonzero(disposition == LATE)),
        repeats=int(np.count_nonzero(disposition == REPEAT)),
    )


def _reject(
    records: Sequence[Record],
    decoded: Decoded,
    is_bad: NDArray[np.bool_],
    reason: DeadReason,
    detail: str,
    rejected: list[Rejected],
) -> None:
    for i in np.flatnonzero(is_bad):
        record, element = records[decoded.record[i]], int(decoded.element[i])
        rejected.append(Rejected(record, element, reason, detail, event_bytes(record, element)))


def dead_letter(rejected: Rejected, *, topic: str, partition: int) -> Message:
    """Return the record for `metrics.dead`: the event's own bytes, with its coordinates and the reason as headers."""
    return Message(
        rejected.record.key,
        rejected.value or b"",  # a tombstone without a key could not be sent on
        [
            ("reason", rejected.reason.encode()),
            ("detail", rejected.detail.encode()),
            ("topic", topic.encode()),
            ("partition", b"%d" % partition),
            ("offset", b"%d" % rejected.record.offset),
            ("index", b"%d" % rejected.element),
        ],
    )
