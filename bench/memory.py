"""A stream takes a fixed room, a million fit in one process, and an event costs much the same among few or many.

Costs are CPU time of the kernel alone, from columns in memory; each number of streams gets the same number of events.
"""

import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray

from streams.contract import METRICS
from streams.features.kernel import ROW, Columns
from streams.features.stream_table import StreamTable, compile_kernel
from streams.features.windows import STREAM

_MINUTE_MS = 60_000
_START_MS = 1_700_000_100_000
_BATCH = 4_096  # events of one call of the kernel, some of a fetch


class WrongRows(Exception):
    """The kernel gave other rows than events; its cost would be of something else."""


def bench(*, streams: int, events: int) -> dict[str, float]:
    """Measure the kernel at 10², 10³ … up to `streams` streams, the last of which is the process's memory too.

    `ratio` is the largest cost of an event by the smallest; `rss_bytes` the most that the process ever held.
    """
    compile_kernel()
    figures: dict[str, float] = {"bytes_per_stream": STREAM.itemsize, "streams": streams, "events": events}
    costs = []
    for exponent in range(2, len(str(streams))):
        costs.append(_us_per_event(10**exponent, events))
        figures[f"us_1e{exponent}"] = round(costs[-1], 3)
    figures["ratio"] = round(max(costs) / min(costs), 2)
    figures["rss_bytes"] = _rss_bytes_max()
    return figures


def _us_per_event(streams: int, events: int) -> float:
    """Return CPU µs an event, the median of batches, over `events` and at least one sweep of all the streams."""
    table = StreamTable(streams_max=streams)
    slot = table.slots([f"node-{i >> 3}/{i & 7}" for i in range(streams)])
    rng = np.random.default_rng(20_261_124)
    _costs(table, slot, np.full(streams, _START_MS), rng)  # the first sweep takes the memory
    minutes = max(1, events // streams)
    arrivals = np.concatenate([rng.permutation(slot) for _ in range(minutes)])
    ts = _START_MS + _MINUTE_MS * np.repeat(np.arange(1, minutes + 1), streams)
    return float(np.median(_costs(table, arrivals, ts, rng))) / 1000


def _costs(table: StreamTable, slot: NDArray[np.int64], ts: NDArray[np.int64], rng: np.random.Generator) -> list[float]:
    """Return the CPU ns an event of each batch of events in the order given."""
    costs = []
    for start in range(0, len(slot), _BATCH):
        batch = slice(start, start + _BATCH)
        n = len(slot[batch])
        columns = Columns(slot[batch], ts[batch], rng.random((n, len(METRICS))), np.zeros(n, np.int64))
        began = time.process_time_ns()
        disposition, _ = table.advance(columns)
        costs.append((time.process_time_ns() - began) / n)
        if not (disposition == ROW).all():
            raise WrongRows(f"{n} events in time gave {np.count_nonzero(disposition == ROW)} rows")
    return costs


def _rss_bytes_max() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
