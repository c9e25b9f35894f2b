"""What a worker says of itself to Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

EVENTS = Counter(
    "linkcast_events",
    "Events by what became of them: a row of features, late, a repeat, or dead",
    ["became"],
)
DEAD_LETTERS = Counter("linkcast_dead_letters", "Events sent to metrics.dead, by reason", ["reason"])
STAGE_CPU_SECONDS = Counter("linkcast_stage_cpu_seconds", "CPU time of each stage of the hop", ["stage"])
BATCH_EVENTS = Histogram("linkcast_batch_events", "Events in one batch", buckets=[1, 8, 64, 512, 4096, 32768, 262144])
LAG = Gauge("linkcast_lag_records", "Log end minus next offset", ["partition"])
STREAMS = Gauge("linkcast_streams", "Streams whose windows this worker holds", ["partition"])
REBUILDING = Gauge("linkcast_rebuilding_records", "Records left to read again before output goes on", ["partition"])
COMMITTED_AT = Gauge("linkcast_committed_timestamp_seconds", "When offsets were last committed, Unix time")
SNAPSHOT_AT = Gauge("linkcast_snapshot_timestamp_seconds", "When state was last written, Unix time")
MODEL = Gauge("linkcast_model_info", "1 for the model that scores", ["version"])


@contextmanager
def cpu(stage: str) -> Iterator[None]:
    """Add the CPU time of this thread in the block to a stage's."""
    start = time.thread_time()
    try:
        yield
    finally:
        STAGE_CPU_SECONDS.labels(stage).inc(time.thread_time() - start)
