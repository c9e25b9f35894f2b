"""Predictions and features become Kafka's bytes in compiled passes, for a fraction of what an object each costs.

Beside each figure stands what the way before costs in the same run: an f-string a prediction, aiokafka's own builder a
record, pyarrow's own writer a batch of features. All must give the same bytes.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from online.worker.prediction_json import PredictionWriter
from streams.contract import FEATURES, node_of
from streams.features import record_batch
from streams.features.kernel import Rows
from streams.features.stream_ids import StreamIds
from streams.group.outlet import BATCH_BYTES_MAX
from streams.inside_aiokafka import BatchBuilder, built
from streams.wire.packed import Packed, pack

_NOW_MS = 1_767_225_600_000
_MODEL = "20261123-0123456789ab"
_STREAMS, _PORTS_A_NODE, _PARTITION = 1_024, 32, 3
_ROWS_A_ROUND = 16_384


class _Scored(NamedTuple):
    """n healthy rows of one partition, as the encoder gets them."""

    ids: list[str]  # by slot
    heads: list[str]  # by slot: how its JSON begins
    nodes: list[bytes]  # by slot
    slot: NDArray[np.int64]
    ts: NDArray[np.int64]
    risk: NDArray[np.float64]
    confidence: NDArray[np.float64]
    offset: NDArray[np.int64]
    element: NDArray[np.intp]
    rows: Rows


def bench(*, rows: Sequence[int] = (8_192, 24), rounds: int = 9) -> dict[str, float]:
    """Time each step over batches of so many rows, in µs of CPU a row, the least of `rounds`; count bytes that differ.

    `render` is scores to JSON, `pack` JSON to record batches with their checksums, `features` rows to Arrow.
    """
    figures: dict[str, float] = {"differing": 0}
    for n in rows:
        for step, (now, before) in _steps(_scored(n)).items():
            figures["differing"] += _differing(now(), before())
            figures[f"{step}_us_{n}"], figures[f"before_{step}_us_{n}"] = _us_per_row(now, before, n, rounds)
    return figures


_Step = Callable[[], Any]


def _steps(s: _Scored) -> dict[str, tuple[_Step, _Step]]:
    """Return each step as it is and as it was."""
    writer = PredictionWriter(_PARTITION)
    writer.extend(s.ids)
    render = partial(writer.write, _MODEL, s.slot, s.ts, s.risk, s.confidence, s.offset, s.element)
    values = by_text(s)
    of_rows = s.ts, s.rows, s.offset, s.element
    streams = StreamIds(streams_max=len(s.ids), names=s.ids)
    return {
        "render": (render, partial(by_text, s)),
        "pack": (partial(_batches, render()), partial(by_aiokafka, s, values)),
        "features": (
            partial(record_batch.encode, s.slot, streams, *of_rows),
            partial(by_pyarrow, [s.ids[slot] for slot in s.slot.tolist()], *of_rows),
        ),
    }


def _scored(n: int) -> _Scored:
    rng = np.random.default_rng(20_261_123)
    ids = [f"leaf-{i // _PORTS_A_NODE:03d}/{i % _PORTS_A_NODE}" for i in range(_STREAMS)]
    slot, zeros = np.arange(n) % _STREAMS, np.zeros(n)
    features = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    features[rng.random(features.shape) < 0.2] = np.nan
    rows = Rows(np.arange(n), features, np.zeros(n, np.int8), zeros, zeros + 0.9, np.zeros(n, np.bool_))
    risk = rng.gamma(1.0, 2.0, n).clip(0, 49)
    offset = 1_000_000 + np.arange(n)
    heads = [f'{{"v":1,"stream_id":"{stream_id}","ts":' for stream_id in ids]
    nodes = [node_of(stream_id).encode() for stream_id in ids]
    return _Scored(ids, heads, nodes, slot, _NOW_MS + slot, risk, 1 - risk / 100, offset, np.zeros(n, np.intp), rows)


def by_text(s: _Scored) -> list[bytes]:
    """Write each prediction as an f-string."""
    heads = s.heads
    tail = f',"model":"{_MODEL}","src":"{_PARTITION}:'
    risk, confidence = np.round(s.risk, 2), np.round(s.confidence, 4)
    columns = [column.tolist() for column in (s.slot, s.ts, risk, confidence, s.offset, s.element)]
    return [
        f'{heads[slot]}{ts},"class":"healthy","risk":{r},"confidence":{c}{tail}{offset}:{element}"}}'.encode()
        for slot, ts, r, c, offset, element in zip(*columns, strict=True)
    ]


def _batches(packed: Packed) -> list[bytearray]:
    batches = pack(packed, timestamp_ms=_NOW_MS, bytes_max=BATCH_BYTES_MAX, is_transactional=False)
    return [built(batch) for batch in batches]


def by_aiokafka(s: _Scored, values: Sequence[bytes]) -> list[bytearray]:
    """Append each record to aiokafka's builder."""
    nodes = s.nodes
    full, builder = [], _builder()
    for slot, value in zip(s.slot.tolist(), values, strict=True):
        if builder.append(timestamp=_NOW_MS, key=nodes[slot], value=value) is None:
            full.append(built(builder))
            builder = _builder()
            builder.append(timestamp=_NOW_MS, key=nodes[slot], value=value)
    return [*full, built(builder)]


def _builder() -> BatchBuilder:
    return BatchBuilder(BATCH_BYTES_MAX + 1, 0)  # it is full at that size, and not beyond it


def by_pyarrow(
    ids: list[str], ts: NDArray[np.int64], rows: Rows, offset: NDArray[np.int64], element: NDArray[np.intp]
) -> list[bytes]:
    """Make an Arrow array of each column and have pyarrow write them."""
    values = []
    for start in range(0, len(ids), record_batch.ROWS_MAX):
        part = slice(start, start + record_batch.ROWS_MAX)
        columns = [
            pa.array(ids[part], pa.string()),
            pa.array(ts[part]),
            *(pa.array(np.ascontiguousarray(rows.features[part, i])) for i in range(len(FEATURES))),
            pa.DictionaryArray.from_arrays(pa.array(rows.label[part]), record_batch.CLASS_NAMES),
            pa.array(rows.rule_risk[part]),
            pa.array(rows.confidence[part]),
            pa.array(offset[part]),
            pa.array(element[part].astype(np.int32)),
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, record_batch.SCHEMA) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=record_batch.SCHEMA))
        values.append(sink.getvalue().to_pybytes())
    return values


def _us_per_row(now: Callable[[], Any], before: Callable[[], Any], n: int, rounds: int) -> tuple[float, float]:
    """Take turns, so that what else the machine does meets both."""
    calls = max(1, _ROWS_A_ROUND // n)
    best = [float("inf")] * 2
    for _ in range(rounds):
        for i, run in enumerate((now, before)):
            start = time.process_time_ns()
            for _ in range(calls):
                run()
            best[i] = min(best[i], (time.process_time_ns() - start) / 1e3 / (calls * n))
    return round(best[0], 3), round(best[1], 3)


def _differing(found: Packed | Sequence[bytearray], expected: Sequence[bytes | bytearray]) -> int:
    """Return how many bytes differ; all of a record that is not of the same size or not there."""
    values = [value or b"" for _, value, _ in found] if isinstance(found, Packed) else found
    return sum(
        int((np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)).sum())
        if len(a) == len(b)
        else max(len(a), len(b))
        for a, b in zip_longest(values, expected, fillvalue=b"")
    )
