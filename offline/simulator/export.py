"""A simulated fabric as files: events, outcomes, truth, and what made them.

Every file is written under a name of its own first and renamed at the end, `fabric.json` last: a folder with a
`fabric.json` holds a whole run.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from offline.simulator.fabric import Block, Fabric
from offline.simulator.parameters import DECOYS, FAULTS
from streams.contract import METRICS, MetricEvent

Format = Literal["parquet", "jsonl"]
Writer = Callable[[Block], None]

EVENTS: dict[Format, str] = {"parquet": "metrics.parquet", "jsonl": "metrics.jsonl.zst"}
SCHEMA = pa.schema(
    [
        pa.field("stream_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in METRICS),
    ]
)


def export(
    fabric: Fabric,
    out: Path,
    *,
    events_as: Format = "parquet",
    processes: int = 1,
    progress: Callable[[int], None] = lambda n_events: None,
) -> dict[str, int]:
    """Write a fabric's run to the folder `out` and return how many events, incidents and outcomes it holds.

    Files: the events in arrival order (`metrics.parquet` or `metrics.jsonl.zst`), `outcomes.jsonl`
    (`contract.Outcome`), `truth.jsonl` (`Incident`, with the start of the precursor), `fabric.json` (setting, every
    parameter, streams and links). `progress` is told the number of events so far. A run already there is replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "fabric.json").unlink(missing_ok=True)
    n_events = 0
    open_writer = _parquet if events_as == "parquet" else _jsonl
    with open_writer(_partial(out / EVENTS[events_as]), fabric.stream_ids) as write:
        for block in fabric.run(processes=processes):
            write(block)
            n_events += block.ts.size
            progress(n_events)
    incidents, outcomes = fabric.incidents, fabric.outcomes()
    encode = msgspec.json.Encoder().encode_lines
    _partial(out / "outcomes.jsonl").write_bytes(encode(outcomes))
    _partial(out / "truth.jsonl").write_bytes(encode(incidents))
    counts = {"events": n_events, "incidents": len(incidents), "outcomes": len(outcomes)}
    _partial(out / "fabric.json").write_text(json.dumps(_provenance(fabric) | counts, indent=1) + "\n")
    for name in (EVENTS[events_as], "outcomes.jsonl", "truth.jsonl", "fabric.json"):
        _partial(out / name).replace(out / name)
    return counts


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


@contextmanager
def _parquet(path: Path, stream_ids: list[str]) -> Iterator[Writer]:
    dictionary = pa.array(stream_ids)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:

        def write(block: Block) -> None:
            streams = pa.DictionaryArray.from_arrays(pa.array(block.stream), dictionary)
            columns = [pa.array(column, from_pandas=True) for column in block.metrics.T]  # NaN becomes null
            file.write_table(pa.Table.from_arrays([streams, pa.array(block.ts), *columns], schema=SCHEMA))

        yield write


@contextmanager
def _jsonl(path: Path, stream_ids: list[str]) -> Iterator[Writer]:
    encode = msgspec.json.Encoder().encode_lines
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:

        def write(block: Block) -> None:
            file.write(encode(events_of(block, stream_ids)))

        yield write


def events_of(block: Block, stream_ids: list[str]) -> list[MetricEvent]:
    """Return the events of a block as records; NaN becomes null."""
    return [
        MetricEvent(
            stream_id=stream_ids[stream],
            ts=ts,
            **{name: value for name, value in zip(METRICS, values, strict=True) if not isnan(value)},
        )
        for stream, ts, values in zip(block.stream.tolist(), block.ts.tolist(), block.metrics.tolist(), strict=True)
    ]


def _provenance(fabric: Fabric) -> dict[str, object]:
    return {
        "linkcast": version("linkcast"),
        **asdict(fabric.setting),
        "parameters": asdict(fabric.parameters),
        "faults": {name: fault._asdict() for name, fault in FAULTS.items()},
        "decoys": {name: decoy._asdict() for name, decoy in DECOYS.items()},
        "stream_ids": fabric.stream_ids,
        "links": [[link.lower, link.upper] for link in fabric.topology.links],
    }
