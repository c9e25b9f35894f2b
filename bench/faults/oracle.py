"""The oracle: the same log through the pure processor, and what the workers left in Kafka held against it."""

import bisect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bench.faults.feed import PARTITIONS
from online.episodes import Episodes
from online.models.champion import Champion
from online.models.scoring import Scorer
from online.worker.partition import ScoredPartition
from streams.contract import FEATURES
from streams.features.record_batch import decode
from streams.features.snapshot import Chunks, SnapshotRefused, chunks_in, ids_in, manifest_in
from streams.features.stream_table import StreamTable
from streams.group.state_topic import SCHEDULE, of_group
from streams.kafka import KafkaSettings

OUTPUTS = ("predictions", "features", "metrics.dead")

Identity = tuple[str, int, int, int]
"""Topic of the output, then partition, offset and index of the event that it came from: `src`."""


class Verdict(NamedTuple):
    """What the workers' outputs, state and offsets were against the oracle's."""

    outputs: int  # of the oracle
    lost: int  # outputs of the oracle that nobody sent
    wrong: int  # outputs that differ from the oracle's in any byte; chunks of state and offsets that do
    repeats: int  # outputs sent again, before they are dropped by `src`
    dead: dict[str, int]  # the oracle's dead letters by reason


async def judge(
    kafka: KafkaSettings, prefix: str, group: str, rng: random.Random, *, model: Callable[[str], Scorer]
) -> Verdict:
    """Compare what is in Kafka with what the log of `metrics` gives in batches cut at random; all is at rest.

    From which offset on which model scores is what the workers have on record; `model` reads one by its version.
    """
    champion = Champion()
    champion.load = model
    log = await read(kafka, f"{prefix}metrics")
    expected: dict[Identity, bytes] = {}
    wrong = 0
    offsets = await committed(kafka, group, f"{prefix}metrics")
    state = await read(kafka, f"{prefix}state")
    for p, records in log.items():
        newest = of_group(group, {record.key: record.value for record in state[p]})
        owner = ScoredPartition(p, topic=f"{prefix}metrics", table=StreamTable(), champion=champion)
        owner.restore_schedule(newest[SCHEDULE])
        batches = _cut(records, owner.switch_offsets(), rng)
        for messages_by_topic in (*(owner.advance(batch).messages for batch in batches), owner.flush()):
            for topic, messages in messages_by_topic.items():
                for message in messages:
                    expected |= _outputs(topic, p, message.value or b"", dict(message.headers or ()))
        end = records[-1].offset + 1
        wrong += offsets.get(p) != end
        wrong += _differing(owner.snapshot()[0], newest, end)
    sent, unlike, found = 0, 0, set()
    for topic in OUTPUTS:
        for p, records in (await read(kafka, prefix + topic)).items():
            for record in records:
                for identity, value in _outputs(topic, p, record.value, dict(record.headers)).items():
                    sent += 1
                    unlike += expected.get(identity) != value
                    found.add(identity)
    return Verdict(
        outputs=len(expected),
        lost=len(expected.keys() - found),
        wrong=wrong + unlike,
        repeats=sent - len(found),
        dead=_reasons(expected),
    )


async def read(kafka: KafkaSettings, topic: str) -> dict[int, list[Any]]:
    """Return the committed records of a topic by partition."""
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    found: dict[int, list[Any]] = {p: [] for p in range(PARTITIONS)}
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(), enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="earliest", max_partition_fetch_bytes=16 << 20,
    )  # fmt: skip
    async with consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                found[tp.partition] += records
    return found


async def committed(kafka: KafkaSettings, group: str, topic: str) -> dict[int, int]:
    """Return the group's committed offsets by partition."""
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {tp.partition: at.offset for tp, at in offsets.items() if tp.topic == topic}


def _cut(records: list[Any], switch_offsets: Sequence[int], rng: random.Random) -> Iterator[list[Any]]:
    """Yield batches of any size, of which none has two models."""
    offsets = [record.offset for record in records]
    edges = [bisect.bisect_left(offsets, offset) for offset in switch_offsets]
    begin = 0
    while begin < len(records):
        end = min([begin + rng.randint(1, 2_000), *(edge for edge in edges if edge > begin)])
        yield records[begin:end]
        begin = end


def _outputs(topic: str, partition: int, value: bytes, headers: Mapping[str, bytes]) -> dict[Identity, bytes]:
    """Return the outputs in a record by what they came from: many rows of features, else the record itself."""
    if topic == "features":
        return _rows(partition, value)
    if topic == "metrics.dead":
        whole = value + b"".join(itertools.chain.from_iterable((k.encode(), v) for k, v in headers.items()))
        return {(topic, int(headers["partition"]), int(headers["offset"]), int(headers["index"])): whole}
    p, offset, element = value.rpartition(b'"src":"')[2].partition(b'"')[0].split(b":")
    return {(topic, int(p), int(offset), int(element)): value}


def _rows(partition: int, value: bytes) -> dict[Identity, bytes]:
    table = decode(value)
    columns = {name: table.column(name) for name in table.column_names}
    bits = np.column_stack([columns.pop(name).to_numpy() for name in FEATURES])
    rest = [column.to_pylist() for column in columns.values()]
    offset, element = columns["offset"].to_pylist(), columns["element"].to_pylist()
    return {
        ("features", partition, offset[i], element[i]): bits[i].tobytes()
        + repr([column[i] for column in rest]).encode()
        for i in range(table.num_rows)
    }


def _differing(oracle: Chunks, newest: dict[bytes, bytes], end: int) -> int:
    """Return in how many arrays the snapshot on topic `state` differs from the oracle's state."""
    try:
        manifest = manifest_in(newest)
        if manifest is None or manifest.next_offset != end:
            return 1
        theirs, ours = _state(chunks_in(newest, manifest)), _state(oracle)
    except SnapshotRefused:
        return 1
    return sum(a != b for a, b in zip(theirs, ours, strict=True))


def _state(chunks: Chunks) -> list[bytes]:
    """Return the ids and each array of a state, as bytes; medians are no part of it, they follow from the panes."""
    ids = ids_in(chunks)
    table, episodes = StreamTable(), Episodes()
    table.restore(ids, chunks)
    episodes.restore(len(ids), chunks)
    arrays = [array for part in (*table.parts(), *episodes.parts()) for array in part.arrays]
    return ["\n".join(ids).encode(), *(array[: len(ids)].tobytes() for array in arrays)]


def _reasons(expected: Mapping[Identity, bytes]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for identity, whole in expected.items():
        if identity[0] == "metrics.dead":
            reason = whole.rpartition(b"reason")[2].partition(b"detail")[0].decode()
            reasons[reason] = reasons.get(reason, 0) + 1
    return reasons
