"""The worker on the real broker while the world around it changes: models, members, topics, partitions, clocks."""

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError

import online.worker.partition
from online.models.publish import publish
from streams.contract import Prediction
from streams.features.snapshot import manifest_in
from streams.group import runner
from streams.group.membership import GroupRefused
from streams.group.recovery import GapRefused
from streams.group.state_topic import of_group
from streams.group.task import Task
from tests.online.worker.test_worker import (
    assert_features_are_those_of_backfill,
    fabric,
    oracle,
    predicted,
    public_key_file,
    read,
    said,
    src_of,
    world,
)

pytestmark = pytest.mark.kafka
__all__ = ["world"]


@contextlib.asynccontextmanager
async def administrator(world):
    admin = AIOKafkaAdminClient(**world.kafka.client_arguments())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def model_of_each(world) -> list[str]:
    """Models by partition and source offset, repeats dropped: the same source never with two models."""
    models: dict[tuple[int, int], str] = {}
    for record in await world.records("predictions"):
        prediction = msgspec.json.decode(record.value, type=Prediction)
        partition, offset, _ = map(int, prediction.src.split(":"))
        assert models.setdefault((partition, offset), prediction.model) == prediction.model
    return [models[at] for at in sorted(models)]


def bundles(write, folder: Path) -> tuple[Path, Path]:
    """Two, the second a minute newer than the first."""
    return (
        Path(write(folder / "older", created_at=1_795_392_000_000)),
        Path(write(folder / "newer", created_at=1_795_392_060_000)),
    )


async def make_metrics_anew(world, caplog, *, is_watched: bool = True) -> None:
    """Delete topic `metrics`, and make it again once the client of a worker, if one runs, has missed it."""
    caplog.set_level("ERROR", logger="aiokafka.cluster")
    async with administrator(world) as admin:
        await admin.delete_topics([f"{world.prefix}metrics"])
        if is_watched:
            await world.until(lambda: said(caplog, f"{world.prefix}metrics not found in cluster metadata"))
        await admin.create_topics(
            [NewTopic(f"{world.prefix}metrics", 2, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})]
        )


async def until_predicted_anew(world, before: list, events: int) -> list:
    """Return the predictions behind those of `before`, once they are of so many events."""
    seen = {(r.partition, r.offset) for r in before}
    anew: list = []

    async def are_there() -> bool:
        anew[:] = [r for r in await world.records("predictions") if (r.partition, r.offset) not in seen]
        return len({src for src, _ in map(src_of, anew)}) >= events

    await world.until(are_there)
    return anew


async def test_a_new_model_never_rescores_what_the_worker_before_may_have_put_out(
    world, write, signing_key, tmp_path
) -> None:
    world.trusted = public_key_file(signing_key, tmp_path / "trainer.pub")
    older, newer = bundles(write, tmp_path)
    first, second, third = fabric(1, steps=20), fabric(2, start=20, steps=20), fabric(3, start=40, steps=20)
    await publish(world.kafka, prefix=world.prefix, bundle=older, published_at=1_000)
    await world.put_events(first)
    async with world.worker(crashes=True, instance="a"):
        await world.until_predicted(len(first))
    await world.put_events(second)
    await publish(world.kafka, prefix=world.prefix, bundle=newer, published_at=2_000)

    async with world.worker(instance="a"):
        await world.until_predicted(len(first) + len(second))
        await world.put_events(third)
        await world.until_predicted(len(first) + len(second) + len(third))

    models = await model_of_each(world)
    assert models.count(older.name) == len(first) + len(second)
    assert models.count(newer.name) == len(third)


async def test_a_replay_takes_the_same_model_for_what_lies_behind_the_snapshot(
    world, write, signing_key, tmp_path
) -> None:
    world.trusted = public_key_file(signing_key, tmp_path / "trainer.pub")
    older, newer = bundles(write, tmp_path)
    first, second, third = fabric(1), fabric(2, start=60), fabric(3, start=120)
    await publish(world.kafka, prefix=world.prefix, bundle=older, published_at=1_000)
    await world.put_events(first)
    async with world.worker(crashes=True, instance="a") as ports:
        await world.until_predicted(len(first))
        await publish(world.kafka, prefix=world.prefix, bundle=newer, published_at=2_000)
        await world.until(lambda: model_is(ports[0], newer.name))
        await world.put_events(second)
        await world.until_predicted(len(first) + len(second))
    await world.put_events(third)
    async with world.worker(instance="a"):
        await world.until_predicted(len(first) + len(second) + len(third))

    assert set(await model_of_each(world)) == {older.name, newer.name}
    episodes = [msgspec.json.decode(r.value, type=Prediction) for r in await world.records("predictions")]
    by_src = {p.src: p for p in episodes}
    assert len({(p.src, p.change, p.episode) for p in episodes}) == len(by_src)


async def model_is(port: int, version: str) -> bool:
    return f'"model": "{version}"' in await asyncio.to_thread(read, port, "/healthz")


async def test_members_that_compute_something_else_are_refused(world, monkeypatch) -> None:
    monkeypatch.setattr(runner, "FORGOTTEN_S", 1.0)
    async with world.worker():
        await world.put_events(fabric(1, steps=2))
        await world.until_predicted(24)

        with pytest.raises(GroupRefused, match="--time-zone"):
            await world.until_it_ends(time_zone="Europe/Berlin")


async def test_a_static_member_that_ended_a_moment_ago_refuses_nobody(world) -> None:
    first, second = fabric(1, steps=2), fabric(2, start=2, steps=2)
    await world.put_events(first)
    async with world.worker(instance="a"):
        await world.until_predicted(len(first))
    await world.put_events(second)

    async with world.worker(instance="a", time_zone="Europe/Berlin"):
        await world.until_predicted(len(first) + len(second))


async def test_two_workers_of_one_name_are_told_of_each_other(world, caplog) -> None:
    async with world.worker(instance="a"), world.worker(instance="a"):
        await world.until(lambda: said(caplog, "does another worker run as --instance a?"))


async def retention_passes(world, *, all_but: int = 0) -> None:
    """Delete what each partition of `metrics` has, but so many records."""
    _, ends = await world.committed_and_ends()
    async with administrator(world) as admin:
        await admin.delete_records({tp: RecordsToDelete(before_offset=end - all_but) for tp, end in ends.items()})


async def test_what_retention_has_passed_is_refused_and_goes_on_only_where_that_is_accepted(world, caplog) -> None:
    first, second, third = fabric(1, steps=10), fabric(2, start=10, steps=10), fabric(3, start=20, steps=10)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    await world.put_events(second)
    await retention_passes(world)

    with pytest.raises(GapRefused, match=r"passed retention unread.*--accept-gap"):
        await world.until_it_ends()

    await world.put_events(third)
    async with world.worker(accept_gap=True):
        await world.until_predicted(len(first) + len(third))
    assert "passed retention unread" in caplog.text


async def test_exactly_once_a_crash_repeats_nothing(world) -> None:
    first, *more = (fabric(seed, start=20 * seed, steps=20) for seed in range(4))
    await world.put_events(first)
    for events in more:
        committed, _ = await world.committed_and_ends()
        with pytest.MonkeyPatch.context() as held:
            async with world.worker(crashes=True, exactly_once=True, instance="a"):
                await world.until(lambda before=committed: has_committed_since(world, before))
                held.setattr(Task, "begin_commit", no_commit)
                end = await end_of_predictions(world)
                await world.put_events(events)
                await world.until(lambda end=end: has_sent_since(world, end))  # it falls with them sent, not committed
    async with world.worker(exactly_once=True, instance="a"):
        await world.until_predicted(4 * len(first))

    count, found = await predicted(world)
    assert count == 4 * len(first)
    assert found == await oracle(world)
    await assert_features_are_those_of_backfill(world)
    committed, ends = await world.committed_and_ends()
    assert committed == ends


async def no_commit(_task) -> None:
    """Take the place of `Task.begin_commit`."""


async def end_of_predictions(world) -> int:
    """Return where the logs end together, open transactions included."""
    async with AIOKafkaConsumer(**world.kafka.client_arguments()) as consumer:
        ends = await consumer.end_offsets([TopicPartition(f"{world.prefix}predictions", p) for p in (0, 1)])
    return sum(ends.values())


async def has_sent_since(world, end: int) -> bool:
    return await end_of_predictions(world) > end


async def has_committed_since(world, before: dict) -> bool:
    return (await world.committed_and_ends())[0] != before


async def test_each_group_has_snapshots_of_its_own(world) -> None:
    first, second = fabric(1, steps=10), fabric(2, start=10, steps=10)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    await world.put_events(second)

    async with world.worker(group=f"{world.prefix}other"):
        await world.until(lambda: are_there(world, len(first) + len(first) + len(second)))

    assert (await predicted(world))[1] == await oracle(world)


async def are_there(world, predictions: int) -> bool:
    return len(await world.records("predictions")) >= predictions


async def test_what_changed_no_window_is_not_missed_where_retention_passes_it(world) -> None:
    first, second = fabric(1, steps=10), fabric(2, start=10, steps=10)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    await world.put([(b"leaf-%d" % i, b"no event") for i in range(50)])
    async with world.worker():
        await world.until(lambda: all_is_committed(world))
    await retention_passes(world)
    await world.put_events(second)

    async with world.worker():
        await world.until_predicted(len(first) + len(second))


async def all_is_committed(world) -> bool:
    committed, ends = await world.committed_and_ends()
    return committed == ends


async def test_a_rebuild_that_retention_cuts_short_is_refused_and_goes_on_only_where_that_is_accepted(
    world, monkeypatch, caplog
) -> None:
    first, second = fabric(1, steps=10), fabric(2, start=10, steps=10)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    await retention_passes(world, all_but=1)
    monkeypatch.setattr(online.worker.partition, "features_sha256", lambda: "f" * 64)

    with pytest.raises(GapRefused, match=r"no snapshot holds.*--accept-gap"):
        await world.until_it_ends()

    await world.put_events(second)
    async with world.worker(accept_gap=True):
        await world.until_predicted(len(first) + len(second))
    assert "no snapshot holds" in caplog.text


async def test_a_stop_waits_no_longer_than_a_handover_may_take(world, monkeypatch, caplog) -> None:
    async def never(_task) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(runner, "HANDOVER_S_MAX", 0.5)
    monkeypatch.setattr(Task, "hand_over", never)
    async with world.worker():
        await world.put_events(fabric(1, steps=2))
        await world.until_predicted(24)

    assert "the next owner does it again" in caplog.text


async def test_a_session_that_fails_after_it_has_committed_is_not_paused_for_longer_than_the_one_before(
    world, monkeypatch, caplog
) -> None:
    begin_commit = Task.begin_commit

    async def fails_once(task) -> None:
        monkeypatch.setattr(Task, "begin_commit", begin_commit)
        await begin_commit(task)
        raise KafkaError("now and then")

    await world.put_events(fabric(1, steps=2))
    async with world.worker(instance="a"):
        for times in (1, 2):
            await world.until(lambda: all_is_committed(world))
            monkeypatch.setattr(Task, "begin_commit", fails_once)
            await world.until(lambda times=times: said(caplog, "now and then", times=times))
            await world.put_events(fabric(1, start=2 * times, steps=2))
        await world.until(lambda: all_is_committed(world))

    assert caplog.text.count("going on from the committed offsets in 1 s") == 2


async def test_a_partition_that_can_not_be_handed_over_does_not_cut_off_the_others(world, monkeypatch, caplog) -> None:
    hand_over = Task.hand_over

    async def fails_for_the_first(task) -> None:
        if task.tp.partition == 0:
            raise KafkaError("not this one")
        await hand_over(task)

    monkeypatch.setattr(Task, "hand_over", fails_for_the_first)
    async with world.worker():
        await world.put_events(fabric(1, steps=2))
        await world.until_predicted(24)

    assert "not this one" in caplog.text
    _, ends = await world.committed_and_ends()
    assert await snapshot_at(world, 1) == ends[TopicPartition(f"{world.prefix}metrics", 1)]


async def snapshot_at(world, partition: int) -> int:
    records = {r.key: r.value for r in await world.records("state") if r.partition == partition}
    manifest = manifest_in(of_group(f"{world.prefix}worker", records))
    assert manifest
    return manifest.next_offset


async def test_a_commit_that_nobody_acknowledges_ends_the_session_and_the_next_does_it_again(
    world, monkeypatch, caplog
) -> None:
    begin_commit = Task.begin_commit

    async def stuck_once(task) -> None:
        monkeypatch.setattr(Task, "begin_commit", begin_commit)
        await asyncio.Event().wait()

    monkeypatch.setattr(runner, "COMMIT_S_MAX", 0.5)
    monkeypatch.setattr(Task, "begin_commit", stuck_once)
    events = fabric(1, steps=5)
    await world.put_events(events)
    async with world.worker(instance="a"):
        await world.until(lambda: all_is_committed(world))

    assert "no acknowledgement within 0.5 s" in caplog.text
    assert (await predicted(world))[1] == await oracle(world)


async def test_a_quiet_worker_says_that_its_broker_or_its_topic_is_gone(world, monkeypatch, caplog) -> None:
    async def gone(_kafka) -> str:
        monkeypatch.undo()
        return "Connection refused"

    async with administrator(world) as admin:
        await admin.delete_topics([f"{world.prefix}metrics"])
    monkeypatch.setattr(runner, "QUIET_S", 0.5)
    async with world.worker():
        await world.until(lambda: said(caplog, f"there is no topic {world.prefix}metrics"))
        monkeypatch.setattr(runner, "why_no_answer", gone)
        await world.until(lambda: said(caplog, "Kafka failed (KafkaConnectionError"))


@pytest.mark.parametrize("steps", [30, 90], ids=["fewer", "more"])
async def test_a_topic_made_anew_under_a_running_worker_is_read_whole(world, caplog, steps) -> None:
    await world.put_events(fabric(1))
    async with world.worker():
        await world.until_predicted(720)
        before = await world.records("predictions")
        await make_metrics_anew(world, caplog)
        await world.put_events(fabric(2, steps=steps))
        anew = await until_predicted_anew(world, before, 12 * steps)

    assert "was made anew" in caplog.text
    by_src = {src_of(r)[0]: (r.partition, r.key, r.value) for r in anew}
    assert by_src == await oracle(world)


async def test_a_topic_made_anew_is_read_whole_but_once(world, caplog) -> None:
    first, second = fabric(1, steps=10), fabric(2, steps=20)
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
    before = await world.records("predictions")
    await make_metrics_anew(world, caplog, is_watched=False)
    await world.put_events(second)
    caplog.set_level("INFO", logger="streams.group.task")
    async with world.worker(crashes=True, exactly_once=True, instance="a"):
        await world.until(lambda: all_is_committed(world))

    async with world.worker(exactly_once=True, instance="a"):
        await world.until(lambda: said(caplog, "reading from", times=2 * 2))

    assert len(await world.records("predictions")) == len(before) + len(second)


async def test_a_topic_made_anew_is_scored_by_the_model_of_now_from_its_first_event(
    world, write, signing_key, tmp_path, caplog
) -> None:
    world.trusted = public_key_file(signing_key, tmp_path / "trainer.pub")
    older, newer = bundles(write, tmp_path)
    first, second = fabric(1, steps=20), fabric(2, start=20, steps=5)
    await publish(world.kafka, prefix=world.prefix, bundle=older, published_at=1_000)
    await world.put_events(first)
    async with world.worker() as ports:
        await world.until_predicted(len(first))
        await publish(world.kafka, prefix=world.prefix, bundle=newer, published_at=2_000)
        await world.until(lambda: model_is(ports[0], newer.name))
        await world.put_events(second)
        await world.until_predicted(len(first) + len(second))
        assert set(await model_of_each(world)) == {older.name, newer.name}, (
            "the old log must have been scored by the newer, too"
        )
        before = await world.records("predictions")
        await make_metrics_anew(world, caplog)
        await world.put_events(fabric(3, steps=5))
        anew = await until_predicted_anew(world, before, 60)

    assert {msgspec.json.decode(r.value, type=Prediction).model for r in anew} == {newer.name}


async def test_partitions_that_are_added_wait_for_their_outputs_and_streams_that_moved_are_said(
    world, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(runner, "LOOK_AGAIN_S", 3.0)
    await world.put_events(fabric(1, steps=5))
    async with world.worker():
        await world.until_predicted(60)
        async with administrator(world) as admin:
            await admin.create_partitions({f"{world.prefix}metrics": NewPartitions(8)})
            await world.until(lambda: said(caplog, "there is no partition 7 of"))
            await world.put_events(fabric(2, start=5, steps=5))
            served = [r for r in await world.records("metrics") if r.partition < 2]
            await world.until_predicted(len(served))  # with six that wait beside them
            others = ("predictions", "features", "metrics.dead", "state", "labels", "outcomes")
            await admin.create_partitions({world.prefix + topic: NewPartitions(8) for topic in others})
        await world.until_predicted(120)

    assert max(r.partition for r in await world.records("metrics")) >= 2, "nothing waited, or this run proved less"
    assert (await predicted(world))[1] == await oracle(world)
    moved = [r for r in caplog.records if "the topic has 8 partitions and had 2" in r.getMessage()]
    assert {r.args[0].partition for r in moved} == {0, 1}


async def test_a_clock_that_jumps_by_more_than_an_hour_changes_no_result(world, monkeypatch) -> None:
    first, second = fabric(1), fabric(2, start=60)
    real = time.time
    await world.put_events(first)
    async with world.worker():
        await world.until_predicted(len(first))
        monkeypatch.setattr(time, "time", lambda: real() + 2 * 3_600)
        await world.put_events(second)
        await world.until_predicted(len(first) + len(second))
        monkeypatch.setattr(time, "time", lambda: real() - 2 * 3_600)

    assert (await predicted(world))[1] == await oracle(world)
    committed, ends = await world.committed_and_ends()
    assert committed == ends
