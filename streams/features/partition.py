"""The owner of one partition of `metrics`: fetched records in, rows of features out. No clock, no Kafka client."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import DeadReason
from streams.features.kernel import LATE, REPEAT, TOO_LATE, Columns, Rows
from streams.features.stream_table import StreamTable
from streams.features.windows import LATENESS_MS
from streams.topics import DEAD_KEY_BYTES_MAX, DEAD_VALUE_BYTES_MAX
from streams.wire.decode import Decoded, Rejected, decode, reject
from streams.wire.packed import Message
from streams.wire.records import Record, Records


class Advanced(NamedTuple):
    """What one fetch became. Each of its events is a row, late, a repeat or rejected."""

    rows: Rows
    slot: NDArray[np.int64]  # of each row's stream: its id is `table.ids[slot]`
    ts: NDArray[np.int64]  # event time of each row, ms
    offset: NDArray[np.int64]  # of each row's record
    element: NDArray[np.int64]  # of each row's event in its record
    rejected: list[Rejected]
    late: int
    repeats: int


def advance(table: StreamTable, records: Sequence[Record]) -> Advanced:
    """Take a partition's next records in log order; `table` moves on."""
    records = Records.of(records)
    decoded, rejected = decode(records)
    slot = table.place(decoded.id_bytes, decoded.id_start, decoded.id_end)
    if table.is_full and slot.min(initial=0) < 0:
        held = len(table.streams)
        _reject(records, decoded, slot < 0, "too_many_streams", f"this partition holds {held}", rejected)
        known = np.flatnonzero(slot >= 0)
        decoded, slot = decoded.at(known), slot[known]
    disposition, rows = table.advance(Columns(slot, decoded.ts, decoded.metrics, decoded.seen))
    if len(rows.event) == len(slot):
        return _all_rows(rows, slot, decoded, records.offset, rejected)
    became = np.bincount(disposition, minlength=4).tolist()
    if became[TOO_LATE]:
        detail = f"more than {LATENESS_MS // 1000} s behind its stream's newest event"
        _reject(records, decoded, disposition == TOO_LATE, "too_late", detail, rejected)
    return Advanced(
        rows=rows,
        slot=slot[rows.event],
        ts=decoded.ts[rows.event],
        offset=records.offset[decoded.record[rows.event]],
        element=decoded.element[rows.event],
        rejected=rejected,
        late=became[LATE],
        repeats=became[REPEAT],
    )


def _all_rows(
    rows: Rows, slot: NDArray[np.int64], decoded: Decoded, offset: NDArray[np.int64], rejected: list[Rejected]
) -> Advanced:
    """Return what is nearly always so, without the ten small arrays that the rest takes."""
    return Advanced(
        rows, slot, decoded.ts, offset[decoded.record], decoded.element, rejected, late=0, repeats=0,
    )  # fmt: skip


def _reject(
    records: Sequence[Record],
    decoded: Decoded,
    is_bad: NDArray[np.bool_],
    reason: DeadReason,
    detail: str,
    rejected: list[Rejected],
) -> None:
    at = np.flatnonzero(is_bad)
    reject(records, decoded, at, [(reason, detail)] * at.size, rejected)


def dead_letter(rejected: Rejected, *, topic: str, partition: int) -> Message:
    """Return the record for `metrics.dead`: the event's own bytes, with its coordinates and the reason as headers.

    What is too large for that topic is cut, and `detail` says how large it was: all of it lies on `metrics`.
    """
    key, value = rejected.record.key, rejected.value or b""  # a tombstone without a key could not be sent on
    detail = rejected.detail
    if len(value) > DEAD_VALUE_BYTES_MAX:
        detail += f"; cut from {len(value)} bytes"
    if key and len(key) > DEAD_KEY_BYTES_MAX:
        detail += f"; its key cut from {len(key)} bytes"
    return Message(
        key and key[:DEAD_KEY_BYTES_MAX],
        value[:DEAD_VALUE_BYTES_MAX],
        [
            ("reason", rejected.reason.encode()),
            ("detail", detail.encode()),
            ("topic", topic.encode()),
            ("partition", b"%d" % partition),
            ("offset", b"%d" % rejected.record.offset),
            ("index", b"%d" % rejected.element),
        ],
    )
