"""What a worker says of itself to Prometheus."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

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


class OfPartition:
    """What is said of one partition. Looking a label up takes 3 µs, and small batches come a thousand a second."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self.rebuilding, self.lag = REBUILDING.labels(partition), LAG.labels(partition)
        self._streams = STREAMS.labels(partition)
        self._became: dict[str, Counter] = {}
        _newest[partition] = self

    def add(self, became: Mapping[str, int], dead: Mapping[str, int], streams: int) -> None:
        """Count what the events of one batch became."""
        for name, count in became.items():
            if count:
                counter = self._became.get(name) or self._became.setdefault(name, EVENTS.labels(name))
                counter.inc(count)
        for reason, count in dead.items():
            DEAD_LETTERS.labels(reason).inc(count)
        BATCH_EVENTS.observe(sum(became.values()))
        self._streams.set(streams)

    def withdraw(self) -> None:
        """Say no more of the partition, unless whoever took it over says it by now."""
        if _newest.get(self._partition) is self:
            del _newest[self._partition]
            for gauge in (REBUILDING, LAG, STREAMS):
                gauge.remove(self._partition)


_newest: dict[int, OfPartition] = {}

SMALL_BATCH = 256
_ONE_IN = 17  # odd, so that partitions that take turns are all met


def cpu(stage: str, *, events: int) -> AbstractContextManager[None]:
    """Add this thread's CPU time in the block, which handles so many events, to a stage's.

    Reading that clock is a system call: it cost a live worker a tenth of its time. So of the small batches one in 17 is
    timed, and counts for 17.
    """
    if events >= SMALL_BATCH:
        return _Timed(stage, 1)
    _small[stage] = nth = _small.get(stage, 0) + 1
    return _UNTIMED if nth % _ONE_IN else _Timed(stage, _ONE_IN)


class _Timed(AbstractContextManager[None]):
    def __init__(self, stage: str, weight: int) -> None:
        self._stage, self._weight = stage, weight

    def __enter__(self) -> None:
        self._start = time.thread_time()

    def __exit__(self, *_: object) -> None:
        STAGE_CPU_SECONDS.labels(self._stage).inc(self._weight * (time.thread_time() - self._start))


_UNTIMED = nullcontext()
_small: dict[str, int] = {}
