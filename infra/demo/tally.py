"""What the demo has seen on `predictions` and `metrics.dead`, and how it compares with the truth."""

import time
from collections import Counter
from collections.abc import Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from offline.report.calls import Call, Report, report
from offline.simulator.truth import Incident
from streams.contract import Change
from streams.inside_aiokafka import fetch_metadata
from streams.kafka import KafkaSettings

RATE_OVER_S = 5.0


class Seen(msgspec.Struct):
    """What the demo reads of a prediction."""

    stream_id: str
    ts: int
    risk: float
    src: str
    model: str
    class_: str = msgspec.field(name="class")
    change: Change = ""
    episode: str | None = None


class Tally:
    """Counts, the newest prediction of each port, and the episodes opened so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.sent_until_ms = 0
        self.predictions = 0
        self.dead: Counter[str] = Counter()
        self.newest: dict[str, Seen] = {}
        self.open: dict[str, Seen] = {}  # episode → the prediction that opened it
        self.calls: list[Call] = []
        self.models: Counter[str] = Counter()
        self.first_prediction_at: float | None = None
        self.last_prediction_at = 0.0
        self._last_source: dict[int, tuple[int, int]] = {}
        self._dead_sources: set[tuple[bytes, ...]] = set()
        self._recent: list[tuple[float, int]] = []

    def take_predictions(self, records: Sequence[ConsumerRecord]) -> None:
        """Take records of one partition of `predictions`; what was written twice counts once, by its `src`."""
        for record in records:
            seen = _decode(record.value)
            partition, offset, element = map(int, seen.src.split(":"))
            if (offset, element) <= self._last_source.get(partition, (-1, -1)):
                continue
            self._last_source[partition] = offset, element
            self.predictions += 1
            self.models[seen.model] += 1
            self.newest[seen.stream_id] = seen
            if seen.episode:
                self._take_episode(seen, seen.episode)
        now = time.monotonic()
        self.first_prediction_at = self.first_prediction_at or now
        self.last_prediction_at = now
        self._recent = [(at, n) for at, n in self._recent if now - at < RATE_OVER_S]
        self._recent.append((now, self.predictions))

    def _take_episode(self, seen: Seen, episode: str) -> None:
        if seen.change == "opened":
            self.calls.append(Call(seen.stream_id, seen.ts))
        if seen.change == "closed":
            self.open.pop(episode, None)
        else:
            self.open.setdefault(episode, seen)

    def take_dead(self, records: Sequence[ConsumerRecord]) -> None:
        """Take records of `metrics.dead`; what was written twice counts once, by its coordinates."""
        for record in records:
            headers = dict(record.headers)
            source = headers["partition"], headers["offset"], headers["index"]
            if source not in self._dead_sources:
                self._dead_sources.add(source)
                self.dead[headers["reason"].decode()] += 1

    @property
    def events_per_s(self) -> float:
        """Predictions a second over the last seconds."""
        if len(self._recent) < 2:
            return 0.0
        (since, n), (until, m) = self._recent[0], self._recent[-1]
        return (m - n) / (until - since) if until > since else 0.0

    def report(self, incidents: Sequence[Incident]) -> Report:
        """Compare the calls with the incidents that have begun within what was sent."""
        begun = [incident for incident in incidents if incident.start_ms <= self.sent_until_ms]
        return report(self.calls, begun)


_decode = msgspec.json.Decoder(Seen).decode


async def watch(kafka: KafkaSettings, prefix: str, tally: Tally) -> None:
    """Read `predictions` and `metrics.dead` from their beginning into the tally, until cancelled."""
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    async with consumer:
        await fetch_metadata(consumer)
        take = {f"{prefix}predictions": tally.take_predictions, f"{prefix}metrics.dead": tally.take_dead}
        consumer.assign([TopicPartition(t, p) for t in take for p in consumer.partitions_for_topic(t) or ()])
        while True:
            for tp, records in (await consumer.getmany(timeout_ms=200, max_records=5_000)).items():
                take[tp.topic](records)
