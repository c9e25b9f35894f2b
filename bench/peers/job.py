"""The job that every engine does, its seeded input, and every value that it has to give.

Input: metric events of `streams.contract` as JSON of about 160 bytes, keyed by stream id, one event a stream every 10 s
of event time, in order. Per stream a job keeps panes of 20 s of sums and counts of `latency_p99`, and writes one JSON
record per event under the event's own key: `{"stream_id": …, "ts": …, "mean_5m": …, "mean_15m": …, "mean_60m": …}`,
`ts` being the event's. A mean over W is that of the events whose pane ⌊ts/20 s⌋ lies in (pane of this event − W/20 s,
pane of this event], this event included. No event is late, missing or repeated: what engines do about those is not
measured here.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from aiokafka.partitioner import murmur2
from numpy.typing import NDArray

PARTITIONS = 2
START_MS = 1_700_000_000_000
PERIOD_MS, PANE_MS = 10_000, 20_000
WINDOWS_MS = (300_000, 900_000, 3_600_000)
TICKS_CHECKED_MIN = 361
"""Events of each stream before the hour has expired: a run with fewer proves nothing about its windows."""
RELATIVE_TOLERANCE = 1e-6
_PORTS_A_NODE = 32


class Output(msgspec.Struct, frozen=True):
    """The record on topic `out`; means in µs."""

    stream_id: str
    ts: int  # ms
    mean_5m: float
    mean_15m: float
    mean_60m: float


class Verdict(NamedTuple):
    """What an engine's outputs were against the reference."""

    outputs: int
    lost: int  # events of a stream up to its newest output that gave none
    repeated: int  # outputs of a stream and event time that was there already
    wrong: int  # outputs with a mean that is not the reference's, or of no event at all
    ticks: int  # events of the stream that got the fewest outputs


class Job:
    """The seeded input of `events` events of `streams` streams, and its reference.

    >>> job = Job(events=6, streams=3)
    >>> [key.decode() for key, _ in job.records()]
    ['leaf-000/0', 'leaf-000/1', 'leaf-000/2', 'leaf-000/0', 'leaf-000/1', 'leaf-000/2']
    >>> job.means.shape
    (3, 2, 3)
    """

    def __init__(self, *, events: int, streams: int = 576, seed: int = 20_261_123) -> None:
        rng = np.random.default_rng(seed)
        self.streams, self.ticks = streams, events // streams
        self.ids = [f"leaf-{i // _PORTS_A_NODE:03d}/{i % _PORTS_A_NODE}" for i in range(streams)]
        self.partition = [partition_of(stream_id.encode()) for stream_id in self.ids]
        self.phase_ms = rng.integers(0, PERIOD_MS, streams)
        self.latency_p99 = rng.lognormal(1.0, 0.5, (self.ticks, streams)).round(3)
        self._utilization = (rng.random(997) * 100).round(3)

    @property
    def events(self) -> int:
        """How many events there are: whole ticks only."""
        return self.streams * self.ticks

    def records(self, first: int = 0, *, ticks: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each event from a tick on, tick by tick, of so many ticks or of all."""
        keys = [stream_id.encode() for stream_id in self.ids]
        busy = self._utilization.tolist()
        for tick in range(first, self.ticks if ticks is None else first + ticks):
            ts = (START_MS + tick * PERIOD_MS + self.phase_ms).tolist()
            for i, latency in enumerate(self.latency_p99[tick].tolist()):
                u = busy[(tick + i) % len(busy)]
                yield (
                    keys[i],
                    f'{{"v":1,"stream_id":"{self.ids[i]}","ts":{ts[i]},"latency_p99":{latency},"utilization":{u},'
                    f'"error_rate":0.0,"bandwidth_gbps":{u},"qp_errors":0.0,"mr_failures":0.0}}'.encode(),
                )

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """Return what each event has to give, shape (streams, ticks, 3), in µs."""
        means = np.empty((self.streams, self.ticks, len(WINDOWS_MS)))
        n = np.arange(1, self.ticks + 1)
        for i in range(self.streams):
            pane = (START_MS + (n - 1) * PERIOD_MS + self.phase_ms[i]) // PANE_MS
            total = np.concatenate(([0.0], np.cumsum(self.latency_p99[:, i])))
            for w, window_ms in enumerate(WINDOWS_MS):
                first = np.searchsorted(pane, pane - window_ms // PANE_MS, side="right")
                means[i, :, w] = (total[n] - total[first]) / (n - first)
        return means


class Check:
    """Compares an engine's outputs, in any order and in as many goes as one likes, with the reference.

    With `carried` the outputs are the events themselves, as the bare pass-through leaves them.
    """

    def __init__(self, job: Job, *, carried: bool = False) -> None:
        self._job = job
        self._read, self._columns = (_read_event, _event_columns) if carried else (_read_output, _output_columns)
        self._expected = job.latency_p99.T[:, :, None] if carried else job.means
        self._number = {stream_id: i for i, stream_id in enumerate(job.ids)}
        self._seen = np.zeros((job.streams, job.ticks), np.int64)
        self._wrong = 0

    def add(self, values: Iterable[bytes]) -> None:
        """Take some of the outputs."""
        outputs = list(map(self._read, values))
        stream = np.array([self._number.get(output.stream_id, -1) for output in outputs], np.int64)
        since_ms = np.array([output.ts for output in outputs], np.int64) - START_MS - self._job.phase_ms[stream]
        tick = since_ms // PERIOD_MS
        is_event = (stream >= 0) & (since_ms % PERIOD_MS == 0) & (tick >= 0) & (tick < self._job.ticks)
        stream, tick, got = stream[is_event], tick[is_event], self._columns(outputs)[is_event]
        is_right = np.isclose(got, self._expected[stream, tick], rtol=RELATIVE_TOLERANCE, atol=0.0).all(axis=1)
        self._wrong += int(np.count_nonzero(~is_right) + np.count_nonzero(~is_event))
        np.add.at(self._seen, (stream, tick), 1)

    def verdict(self) -> Verdict:
        """Return what they were, all in all."""
        is_seen = self._seen > 0
        newest = np.where(is_seen.any(axis=1), self._job.ticks - is_seen[:, ::-1].argmax(axis=1), 0)
        n_seen, n = int(np.count_nonzero(is_seen)), int(self._seen.sum())
        return Verdict(n, int(newest.sum()) - n_seen, n - n_seen, self._wrong, int(newest.min()))


class _Event(msgspec.Struct):
    stream_id: str
    ts: int
    latency_p99: float


_read_output = msgspec.json.Decoder(Output).decode
_read_event = msgspec.json.Decoder(_Event).decode


def _output_columns(outputs: list[Output]) -> NDArray[np.float64]:
    return np.array([(o.mean_5m, o.mean_15m, o.mean_60m) for o in outputs], np.float64).reshape(-1, 3)


def _event_columns(events: list[_Event]) -> NDArray[np.float64]:
    return np.array([event.latency_p99 for event in events], np.float64).reshape(-1, 1)


@lru_cache(1 << 12)
def partition_of(key: bytes) -> int:
    """Return the partition that Kafka's own default partitioner gives a key: every engine's output then follows."""
    return int((murmur2(key) & 0x7FFFFFFF) % PARTITIONS)
