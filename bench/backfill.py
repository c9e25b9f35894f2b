"""Backfill takes over a million events a second on one core, by the worker's own kernel, file to file.

CPU time of all threads counts, not the clock: what a run takes of one core.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offline.backfill import backfill_columns, backfill_files
from offline.simulator.export import EVENTS, Format, export
from offline.simulator.fabric import Fabric, Setting
from streams.contract import FEATURES, METRICS
from streams.features.stream_table import compile_kernel

T = TypeVar("T")


def bench(*, ports: int, hours: float) -> dict[str, float]:
    """Backfill a simulated fabric from Parquet, from JSON Lines (.zst) and from arrays; all must give the same bits.

    `events_per_s` is Parquet to Parquet, and `differing` counts the features whose bits are not those of the arrays.
    """
    compile_kernel()
    fabric = Fabric(Setting(ports=ports, hours=hours, seed=1))
    blocks = list(fabric.run())
    slot, ts, metrics = (np.concatenate([getattr(b, column) for b in blocks]) for column in ("stream", "ts", "metrics"))
    ns, columns = _timed(partial(backfill_columns, slot, ts, metrics, stream_ids=fabric.stream_ids))
    figures: dict[str, float] = {
        "events": ts.size,
        "rows": len(columns.rows),
        "columns_events_per_s": round(ts.size / ns * 1e9),
    }
    pandas_ns = _pandas_ns_per_row(slot, ts, metrics, fabric.stream_ids)
    figures["times_pandas"] = round(pandas_ns / (ns / ts.size), 1)
    figures["differing"] = 0
    with tempfile.TemporaryDirectory(prefix="linkcast-bench-") as folder:
        for key, events_as in _FILES.items():
            export(fabric, Path(folder), events_as=events_as)
            recording, out = Path(folder) / EVENTS[events_as], Path(folder) / "features.parquet"
            ns, _ = _timed(partial(backfill_files, [str(recording)], out))
            figures[key] = round(ts.size / ns * 1e9)
            figures["differing"] += _differing(out, columns.features)
    figures["file_times_pandas"] = round(pandas_ns * figures["events_per_s"] / 1e9, 1)
    return figures


# Its cost a row hardly depends on how many there are: windows are a pass, and rules a loop in Python.
_PANDAS_ROWS = 100_000
_FILES: dict[str, Format] = {"events_per_s": "parquet", "json_lines_events_per_s": "jsonl"}


def _pandas_ns_per_row(
    slot: NDArray[np.int64], ts: NDArray[np.int64], metrics: NDArray[np.float64], stream_ids: list[str]
) -> float:
    """Return CPU time a row of the specification's features and labels, of the first `_PANDAS_ROWS` rows."""
    import pandas as pd

    from bench import spec_pandas

    n = _PANDAS_ROWS
    df = pd.DataFrame(dict(zip(METRICS, metrics[:n].T, strict=True)))
    df["stream_id"] = np.array(stream_ids)[slot[:n]]
    df["timestamp"] = pd.to_datetime(ts[:n], unit="ms")
    ns, labelled = _timed(lambda: spec_pandas.labels(spec_pandas.features(df)), repeats=1)
    assert len(labelled) == len(df)
    return ns / len(df)


def _timed(run: Callable[[], T], *, repeats: int = 5) -> tuple[int, T]:
    """Return the median CPU time of some runs, in ns, for machines are shared; and what the last one gave."""
    spent = []
    for _ in range(repeats):
        start = time.process_time_ns()
        result = run()
        spent.append(time.process_time_ns() - start)
    return int(np.median(spent)), result


def _differing(file: Path, expected: NDArray[np.float32]) -> int:
    table = pq.read_table(file, columns=list(FEATURES))
    features = np.column_stack([table[name].to_numpy() for name in FEATURES])
    if features.shape != expected.shape:
        return expected.size
    return int((features.view(np.uint32) != expected.view(np.uint32)).sum())
