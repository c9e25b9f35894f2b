"""A row of features on the topic is the row of the kernel, bit for bit, in records that a broker takes."""

import numpy as np
import pyarrow as pa
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.encode import by_pyarrow
from streams.contract import CLASSES, FEATURES, STREAM_ID_BYTES_MAX
from streams.features import record_batch
from streams.features.kernel import Rows
from streams.features.stream_ids import StreamIds


def rows_of(m: int) -> tuple[np.ndarray, StreamIds, np.ndarray, Rows, np.ndarray, np.ndarray]:
    """Rows of random bits: denormals, infinities, −0 and NaN of every payload among them."""
    draw = np.random.default_rng(m)
    features = draw.integers(0, 1 << 32, (m, 24), dtype=np.uint32).view(np.float32)
    features[::2, 5] = np.nan
    label = draw.integers(0, len(CLASSES), m).astype(np.int8)
    risk, confidence = draw.random(m) * 100, draw.random(m)
    rows = Rows(np.arange(m), features, label, risk, confidence, confidence < 0.75)
    ids = [f"leaf-{i}/{'ü' * (i % 100)}" for i in range(m)]
    streams = StreamIds(streams_max=m + 1)
    slot = streams.slots(["another", *ids])[1:][::-1]
    return slot, streams, draw.integers(0, 1 << 41, m), rows, np.arange(m) + (1 << 40), np.arange(m) % 7


@pytest.mark.parametrize("m", [1, record_batch.ROWS_MAX, record_batch.ROWS_MAX + 1, 2 * record_batch.ROWS_MAX + 5])
def test_rows_come_back_bit_for_bit_in_records_of_at_most_rows_max(m) -> None:
    slot, streams, ts, rows, offset, element = rows_of(m)

    records = record_batch.encode(slot, streams, ts, rows, offset, element)

    tables = [record_batch.decode(value) for value in records]
    assert [len(table) for table in tables] == [
        min(record_batch.ROWS_MAX, m - start) for start in range(0, m, record_batch.ROWS_MAX)
    ]
    table = pa.concat_tables(tables)
    assert table["stream_id"].to_pylist() == [streams.names[i] for i in slot]
    assert table["label"].to_pylist() == [CLASSES[code] for code in rows.label]
    found = np.stack([table[name].to_numpy() for name in FEATURES], axis=1)
    assert found.tobytes() == rows.features.tobytes()
    for name, column in (("rule_risk", rows.rule_risk), ("confidence", rows.confidence)):
        assert table[name].to_numpy().tobytes() == column.tobytes()
    for name, expected in (("ts", ts), ("offset", offset), ("element", element)):
        assert table[name].to_pylist() == expected.tolist()


def test_rows_of_the_longest_ids_fit_into_what_a_broker_takes_by_default() -> None:
    m = record_batch.ROWS_MAX
    _, _, ts, rows, offset, element = rows_of(m)
    streams = StreamIds(streams_max=m)
    slot = streams.slots([f"{i:0{STREAM_ID_BYTES_MAX}}" for i in range(m)])

    [value] = record_batch.encode(slot, streams, ts, rows, offset, element)
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    batch.append(0, timestamp=0, key=None, value=value, headers=[])

    assert len(batch.build()) < 1_048_588


def test_missing_is_nan_and_never_null() -> None:
    table = record_batch.decode(record_batch.encode(*rows_of(9))[0])

    assert all(table[name].null_count == 0 for name in FEATURES)


def test_no_row_makes_no_record() -> None:
    assert record_batch.encode(*rows_of(0)) == []


@pytest.mark.parametrize("m", [1, 2, 3, 7, 8, 24, 25, 1_013, record_batch.ROWS_MAX, record_batch.ROWS_MAX + 3])
def test_a_record_has_the_bytes_of_pyarrows_own_writer(m) -> None:
    slot, streams, ts, rows, offset, element = rows_of(m)
    ids = [streams.names[i] for i in slot]

    assert record_batch.encode(slot, streams, ts, rows, offset, element) == by_pyarrow(ids, ts, rows, offset, element)
