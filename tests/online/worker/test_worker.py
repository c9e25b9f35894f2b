"""The worker on a real broker: every event comes out once, with the bytes of the pure core run offline."""

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offline.backfill import backfill_events
from online.models.champion import Champion
from online.models.publish import publish
from online.worker.partition import ScoredPartition
from online.worker.service import WorkerSettings, run_worker
from streams.contract import FEATURES, MetricEvent, Prediction, node_of
from streams.features import record_batch
from streams.features.labels import load_rules
from streams.features.stream_table import StreamTable
from tests.streams.strategies import T0

pytestmark = pytest.mark.kafka


def fabric(seed: int, *, start: int = 0, steps: int = 60) -> list[MetricEvent]:
    """Events of 12 ports on 6 nodes every 30 s; metrics go missing, and from step 40 on one port drops its packets."""
    chance = random.Random(seed)
    return [
        MetricEvent(
            stream_id=f"leaf-{port // 2}/{port}",
            ts=T0 + 30_000 * step + port,
            latency_p99=chance.choice([None, chance.uniform(2, 9)]),
            utilization=chance.uniform(0, 95),
            error_rate=0.06 if port == 7 and step >= 40 else 0.0,
            bandwidth_gbps=chance.uniform(0, 390),
        )
        for step in range(start, start + steps)
        for port in range(12)
    ]


class World:
    """One test's topics, and the workers on them."""

    def __init__(self, kafka, prefix: str, consume_all, trusted: Path) -> None:
        self.kafka, self.prefix, self.trusted, self._consume_all = kafka, prefix, trusted, consume_all

    async def put(self, values: list[tuple[bytes | None, bytes | None]]) -> None:
        async with AIOKafkaProducer(**self.kafka.client_arguments()) as producer:
            sent = [await producer.send(f"{self.prefix}metrics", value, key=key) for key, value in values]
            await asyncio.gather(*sent)

    async def put_events(self, events: list[MetricEvent]) -> None:
        await self.put([(node_of(e.stream_id).encode(), msgspec.json.encode(e)) for e in events])

    async def records(self, topic: str) -> list:
        return await self._consume_all(self.prefix + topic)

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        while not await is_so():  # noqa: ASYNC110  # other processes set no event of ours
            await asyncio.sleep(0.1)

    async def until_predicted(self, events: int) -> None:
        async def are_there() -> bool:
            return len({src for src, _ in map(src_of, await self.records("predictions"))}) >= events

        await self.until(are_there)

    @contextlib.asynccontextmanager
    async def worker(self, *, crashes: bool = False, **changed):
        """A worker in this process; at the end of the block it stops cleanly, or falls as it stands."""
        stop, ports = asyncio.Event(), []
        running = asyncio.create_task(
            run_worker(self.kafka, self.settings(**changed), stop, ready=ports.append), name="worker"
        )
        try:
            await asyncio.wait({running}, timeout=0.01)
            yield ports
        finally:
            if crashes:
                running.cancel()
            else:
                stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def until_it_ends(self, **changed) -> None:
        """Run a worker that should not go on; raises what ended it."""
        await run_worker(self.kafka, self.settings(**changed), asyncio.Event(), ready=lambda port: None)

    def settings(self, **changed) -> WorkerSettings:
        settings = WorkerSettings(
            prefix=self.prefix, group=f"{self.prefix}worker", time_zone="UTC", rules=load_rules(), streams_max=1_000,
            trusted_keys=self.trusted, health_host="127.0.0.1", health_port=0,
        )  # fmt: skip
        return settings._replace(**changed)

    async def process(self, *arguments: str):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.command", "worker", "--bootstrap", self.kafka.bootstrap,
            "--prefix", self.prefix, *arguments, stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "LINKCAST_HOME": str(self.trusted)},
        )  # fmt: skip

    async def committed_and_ends(self) -> tuple[dict, dict]:
        consumer = AIOKafkaConsumer(
            **self.kafka.client_arguments(), group_id=f"{self.prefix}worker", enable_auto_commit=False
        )
        async with consumer:
            partitions = [TopicPartition(f"{self.prefix}metrics", p) for p in (0, 1)]
            return {tp: await consumer.committed(tp) for tp in partitions}, await consumer.end_offsets(partitions)


@pytest.fixture
def world(kafka, topics, consume_all, tmp_path) -> World:
    return World(kafka, topics, consume_all, tmp_path)


def src_of(record) -> tuple[str, bytes]:
    return msgspec.json.decode(record.value, type=Prediction).src, record.value


async def oracle(world: World) -> dict[str, tuple[int, bytes, bytes]]:
    """Predictions by src, with partition, key and bytes: the pure core over each partition, in one batch, offline."""
    log = defaultdict(list)
    for record in await world.records("metrics"):
        log[record.partition].append(record)
    expected = {}
    for number, records in log.items():
        owner = ScoredPartition(number, topic="metrics", table=StreamTable(), champion=Champion())
        for message in owner.advance(records).messages["predictions"]:
            expected[src_of(message)[0]] = number, message.key, message.value
    return expected


async def predicted(world: World) -> tuple[int, dict[str, tuple[int, bytes, bytes]]]:
    """How many predictions there are, and by src; repeats of one src must have the same bytes."""
    records = await world.records("predictions")
    found: dict[str, tuple[int, bytes, bytes]] = {}
    for record in records:
        said = record.partition, record.key, record.value
        assert found.setdefault(src_of(record)[0], said) == said
    return len(records), found


async def assert_features_are_those_of_backfill(world: World) -> None:
    metrics = await world.records("metrics")
    events = {f"{r.partition}:{r.offset}": msgspec.json.decode(r.value, type=MetricEvent) for r in metrics}
    backfilled = backfill_events([*events.values()])
    offline = {s: f.tobytes() for s, f in zip(np.array([*events])[backfilled.rows], backfilled.features, strict=True)}
    live = {}
    for record in await world.records("features"):
        table = record_batch.decode(record.value)
        features = np.stack([table[name].to_numpy() for name in FEATURES], axis=1)
        for offset, row in zip(table["offset"].to_pylist(), features, strict=True):
            live[f"{record.partition}:{offset}"] = row.tobytes()
    assert live == offline


async def test_every_event_is_predicted_once_as_offline_and_offsets_end_where_the_log_does(world) -> None:
    events = fabric(1)
    await world.put_events(events)

    async with world.worker():
        await world.until_predicted(len(events))

    count, found = await predicted(world)
    assert count == len(events)
    assert found == await oracle(world)
    await assert_features_are_those_of_backfill(world)
    committed, ends = await world.committed_and_ends()
    assert committed == ends
    assert min(ends.values()) > 0, "both partitions must have had events, or this run proved less"


async def test_a_clean_restart_sends_nothing_twice_and_goes_on_with_the_same_windows(world) -> None:
    first, second = fabric(2), fabric(3, start=60)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    await world.put_events(second)

    async with world.worker():
        await world.until_predicted(len(first) + len(second))

    count, found = await predicted(world)
    assert count == len(first) + len(second)
    assert found == await oracle(world)
    await assert_features_are_those_of_backfill(world)


async def test_a_dead_letter_carries_its_bytes_and_where_it_lay(world) -> None:
    good = fabric(4, steps=1)[0]
    sweep = b"[" + msgspec.json.encode(good) + b', {"stream_id": "leaf-0/1"}]'
    await world.put([(b"leaf-0", b"no event"), (b"leaf-0", sweep), (b"leaf-0", None)])

    async with world.worker():
        await world.until_predicted(1)

        async def all_are_dead() -> bool:
            return len(await world.records("metrics.dead")) == 3

        await world.until(all_are_dead)

    dead = [(r.key, r.value, dict(r.headers)) for r in await world.records("metrics.dead")]
    by_reason = {headers["reason"]: (key, value, headers) for key, value, headers in dead}
    assert by_reason.keys() == {b"not_json", b"wrong_type", b"tombstone"}
    assert by_reason[b"not_json"][:2] == (b"leaf-0", b"no event")
    key, value, headers = by_reason[b"wrong_type"]
    assert (key, value, headers["index"]) == (b"leaf-0", b'{"stream_id": "leaf-0/1"}', b"1")
    assert headers["topic"].decode() == f"{world.prefix}metrics"
    assert by_reason[b"tombstone"][:2] == (b"leaf-0", b"")


async def test_a_worker_that_joins_and_leaves_loses_and_changes_nothing(world, caplog) -> None:
    caplog.set_level("INFO", logger="streams.group.task")

    async def taken_over(times: int) -> bool:
        return caplog.text.count("reading from") >= times

    first, second, third = fabric(5), fabric(6, start=60), fabric(7, start=120)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
        async with world.worker():
            await world.put_events(second)
            await world.until(lambda: taken_over(2 + 2))  # the group shared its partitions out anew
            await world.until_predicted(len(first) + len(second))
        await world.until(lambda: taken_over(2 + 2 + 2))
        await world.put_events(third)
        await world.until_predicted(len(first) + len(second) + len(third))

    assert (await predicted(world))[1] == await oracle(world)
    await assert_features_are_those_of_backfill(world)


async def test_kill_9_in_mid_stream_loses_and_changes_nothing_and_sigterm_is_a_clean_end(world) -> None:
    first, second, third = fabric(8), fabric(9, start=60), fabric(10, start=120)
    await world.put_events(first)
    killed = await world.process("--instance", "a")
    try:
        await world.until_predicted(1)
        await world.put_events(second)
    finally:
        killed.kill()
        assert await killed.wait() == -signal.SIGKILL
    await world.put_events(third)  # which the killed one can't have predicted, however late it was killed
    after = await world.process("--instance", "a")
    try:
        await world.until_predicted(len(first) + len(second) + len(third))
        after.send_signal(signal.SIGTERM)
        assert await after.wait() == 0
    finally:
        if after.returncode is None:
            after.kill()
            await after.wait()

    assert (await predicted(world))[1] == await oracle(world)
    await assert_features_are_those_of_backfill(world)
    committed, ends = await world.committed_and_ends()
    assert committed == ends


async def test_rules_speak_until_a_bundle_is_published_and_only_a_newer_one_that_holds_takes_over(
    world, write, signing_key, tmp_path, caplog
) -> None:
    caplog.set_level("ERROR", logger="online.models.topic")
    world.trusted = public_key_file(signing_key, tmp_path / "trainer.pub")
    first, newer = write(tmp_path / "first"), write(tmp_path / "newer", created_at=1_795_392_060_000)
    altered = write(tmp_path / "altered", created_at=1_795_392_120_000)
    alter(Path(altered))
    untrusted = write(tmp_path / "untrusted", key=Ed25519PrivateKey.generate(), created_at=1_795_392_180_000)
    async with world.worker() as ports:

        async def model_is(version: str) -> bool:
            return f'"model": "{version}"' in await asyncio.to_thread(read, ports[0], "/healthz")

        async def models_shown() -> list[str]:
            metrics = await asyncio.to_thread(read, ports[0], "/metrics")
            return re.findall(r'^linkcast_model_info\{version="(.+)"\} 1', metrics, re.MULTILINE)

        async def show(bundle: Path, published_at: int) -> None:
            await publish(world.kafka, prefix=world.prefix, bundle=Path(bundle), published_at=published_at)

        await world.until(lambda: model_is("rules"))
        assert "rules" in await models_shown()
        await world.put_events(fabric(10, steps=5))
        await world.until_predicted(60)
        await show(altered, 500)
        await world.until(lambda: said(caplog, f"{Path(altered).name} refused, the rules go on"))
        await show(first, 1_000)
        await world.until(lambda: model_is(Path(first).name))
        for bundle, published_at in ((altered, 3_000), (untrusted, 4_000)):
            await show(bundle, published_at)
            await world.until(lambda name=Path(bundle).name: said(caplog, f"{name} refused, the champion stays"))
        assert await model_is(Path(first).name)
        await show(newer, 2_000)
        await world.until(lambda: model_is(Path(newer).name))
        await show(first, 1_500)  # older than what speaks
        await show(untrusted, 5_000)  # refused once more: the older one has been seen by then
        await world.until(lambda: said(caplog, f"{Path(untrusted).name} refused", times=2))
        assert await models_shown() == [Path(newer).name]
        await world.put_events(fabric(11, start=5, steps=5))
        await world.until_predicted(120)

    models = [msgspec.json.decode(r.value, type=Prediction) for r in await world.records("predictions")]
    by_model = {m: [p for p in models if p.model == m] for m in {p.model for p in models}}
    assert {m: len(p) for m, p in by_model.items()} == {"rules": 60, Path(newer).name: 60}
    for prediction in by_model[Path(newer).name]:
        assert (prediction.probabilities is not None) == (prediction.class_ != "healthy")
        assert (prediction.drivers is not None) == (prediction.risk >= 80)


def alter(bundle: Path) -> None:
    weights = max(bundle.glob("*.ubj"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")


async def said(caplog, text: str, *, times: int = 1) -> bool:
    return caplog.text.count(text) >= times


def public_key_file(key, path: Path) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def read(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.read().decode()


async def test_health_is_well_and_metrics_count_what_events_became(world) -> None:
    events = fabric(12, steps=3)
    async with world.worker() as ports:
        rows = await asyncio.to_thread(counted, ports[0])
        await world.put_events(events)
        await world.until_predicted(len(events))

        async def are_counted() -> bool:
            return await asyncio.to_thread(counted, ports[0]) == rows + len(events)

        await world.until(are_counted)
        assert '"ok": true' in await asyncio.to_thread(read, ports[0], "/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await asyncio.to_thread(read, ports[0], "/")


def counted(port: int) -> float:
    found = re.search(r'^linkcast_events_total\{became="row"\} (\S+)', read(port, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0
