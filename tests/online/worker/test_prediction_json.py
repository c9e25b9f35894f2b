"""Predictions written by the kernel have the bytes of the contract's own encoder, whatever stands around them."""

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from online.worker.prediction_json import PredictionWriter
from streams.contract import EVENT_TIME_MS_MAX, Prediction, node_of

IDS = st.text(min_size=1, max_size=60).filter(str.isprintable)
# Ties of both roundings, the ends of the ranges, and floats whose shortest decimal is long.
RISKS = st.floats(0, 100) | st.integers(0, 20_000).map(lambda half: half / 200)
CONFIDENCES = st.floats(0, 1) | st.integers(0, 20_000).map(lambda half: half / 20_000)
ROWS = st.tuples(
    st.integers(0, 4),
    st.integers(0, EVENT_TIME_MS_MAX),
    RISKS,
    CONFIDENCES,
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 1 << 20),
    st.none() | st.binary(max_size=300),
)


def encoded(stream_id: str, row: tuple, *, partition: int, model: str) -> bytes:
    """Encode as the contract does: the one definition of the bytes."""
    _, ts, risk, confidence, offset, element, _ = row
    return msgspec.json.encode(
        Prediction(
            v=1, stream_id=stream_id, ts=ts, class_="healthy", risk=float(np.round(risk, 2)),
            confidence=float(np.round(confidence, 4)), model=model, src=f"{partition}:{offset}:{element}",
        )
    )  # fmt: skip


def written(writer: PredictionWriter, rows: list[tuple], *, model: str) -> list[tuple[bytes | None, bytes | None]]:
    slot, ts, risk, confidence, offset, element, json = zip(*rows, strict=True)
    unlike = np.array([i for i, value in enumerate(json) if value is not None], np.intp)
    packed = writer.write(
        model, np.array(slot), np.array(ts), np.array(risk), np.array(confidence), np.array(offset),
        np.array(element), unlike, [value for value in json if value is not None],
    )  # fmt: skip
    return [(key, value) for key, value, _ in packed]


@settings(deadline=None, max_examples=100)
@given(
    ids=st.lists(IDS, min_size=5, max_size=5),
    rows=st.lists(ROWS, min_size=1, max_size=20),
    partition=st.integers(0, 10_000),
    model=IDS,
)
@example(
    ids=['a/"\\', "b/ü", "c", "/d", "e/"],
    rows=[
        (i, 0, risk, c, 0, 0, None) for i, (risk, c) in enumerate([(0, 1), (100, 0), (0.005, 5e-5), (9.995, 0.00015)])
    ],
    partition=0,
    model='"',
)
def test_a_healthy_prediction_has_the_bytes_of_the_contracts_encoder(ids, rows, partition, model) -> None:
    writer = PredictionWriter(partition)
    writer.extend(ids)

    assert written(writer, rows, model=model) == [
        (
            node_of(ids[row[0]]).encode(),
            encoded(ids[row[0]], row, partition=partition, model=model) if row[-1] is None else row[-1],
        )
        for row in rows
    ]


def test_each_rounded_risk_and_confidence_is_written_as_python_does() -> None:
    writer = PredictionWriter(0)
    writer.extend(["leaf/1"])
    step = np.arange(10_001)
    zeros = np.zeros(step.size, np.int64)

    packed = writer.write("v", zeros, zeros, step / 100, step / 10_000, zeros, zeros)

    numbers = [
        value.split(b'"risk":')[1].split(b',"model"')[0].split(b',"confidence":') for _, value, _ in packed if value
    ]
    assert numbers == [[repr(k / 100).encode(), repr(k / 10_000).encode()] for k in range(10_001)]


def test_a_slot_that_is_used_anew_speaks_of_its_new_stream_and_leaves_what_was_written() -> None:
    writer = PredictionWriter(0)
    writer.extend(["leaf-1/1", "leaf-1/2"])
    row = (0, 1, 2.0, 0.5, 3, 4, None)
    slot, zero, zeros = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1)
    before = writer.write("v", slot, zero, zeros, zeros, zero, zero)
    writer.replace(0, "spine-0123456789/1")

    assert written(writer, [row, (1, *row[1:])], model="v") == [
        (b"spine-0123456789", encoded("spine-0123456789/1", row, partition=0, model="v")),
        (b"leaf-1", encoded("leaf-1/2", row, partition=0, model="v")),
    ]
    assert [key for key, _, _ in before] == [b"leaf-1"]


def test_no_rows_make_no_records() -> None:
    none = np.empty(0, np.int64)

    assert list(PredictionWriter(0).write("v", none, none, np.empty(0), np.empty(0), none, none)) == []
