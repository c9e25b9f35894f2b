"""What an event costs at live rates, where batches are small, beside what it costs of a drained backlog.

A benchmark that only drains a backlog hides the fixed cost of a batch; this one shows it as a ratio. Beside it stands
what the machine adds: the same small batch costs more where some time passed before it, asleep or not, as it would on a
core whose caches others have used meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from bench import hop, latency
from bench.cluster import START_MS
from bench.events import records
from streams.partition import advance
from streams.records import Records, Taken
from streams.stream_table import StreamTable

RATES = (5_000, 20_000, 50_000)
PAUSE_MS = 10
_BATCHES, _BATCH_EVENTS = 300, 25


def bench(
    *, rates: Sequence[int] = RATES, seconds: float = 20.0, warm_s: float = latency.WARM_S, events: int = 300_000,
    streams: int = 10_000, model: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Measure `cpu_us_per_event` at each rate (events/s) and of a backlog of `events`, and each rate's ratio to that.

    `void` names the rates at which what an event costs is no figure, as in `bench.latency`. `decoded_batch_of_25_us` is
    the CPU of decode and kernel for one batch in this process, without a broker.
    """
    pauses = {"back to back": _none, f"after {PAUSE_MS} ms of sleep": _sleep, f"after {PAUSE_MS} ms of spinning": _spin}
    batch_us = {name: _batch_us(streams, pause) for name, pause in pauses.items()}
    drained = hop.bench(events=events, streams=streams, model=model)
    backlog_us = float(str(drained["cpu_us_per_event"]))
    us: dict[str, float] = {}
    void: list[str] = []
    for rate in rates:
        live = latency.bench(rate=rate, seconds=seconds, streams=streams, warm_s=warm_s, model=model)
        us[str(rate)] = float(str(live["cpu_us_per_event"]))
        if live["void"]:
            void.append(f"at {rate} events/s {live['void']}")
    return {
        "cpu_us_per_event": us | {"backlog": backlog_us},
        "times_backlog": {rate: round(cost / backlog_us, 2) for rate, cost in us.items()},
        f"decoded_batch_of_{_BATCH_EVENTS}_us": batch_us,
        "void": "; ".join(void) or None,
        "seconds": seconds,
        "streams": streams,
    }


def _batch_us(streams: int, pause: Callable[[], None]) -> float:
    """Return µs of CPU of a small batch through decode and kernel, each after a pause; all streams are known before."""
    table = StreamTable(streams_max=streams)
    n = streams + _BATCHES * _BATCH_EVENTS
    events = records(n, streams=streams, period_ms=1_000)
    log = Records.of([Taken(i, START_MS + i, r.key, r.value, []) for i, r in enumerate(islice(events, n))])
    advance(table, log[:streams])
    used_s = 0.0
    for at in range(streams, n, _BATCH_EVENTS):
        pause()
        before_s = time.thread_time()
        advance(table, log[at : at + _BATCH_EVENTS])
        used_s += time.thread_time() - before_s
    return round(used_s / _BATCHES * 1e6, 1)


def _none() -> None:
    """Go on at once."""


def _sleep() -> None:
    time.sleep(PAUSE_MS / 1_000)


def _spin() -> None:
    until = time.perf_counter() + PAUSE_MS / 1_000
    while time.perf_counter() < until:
        pass
