"""Streams that are idle for 25 h leave memory, and nobody can tell from what comes after."""

from types import SimpleNamespace

import msgspec
import pytest

from online.models.champion import Champion
from online.worker.partition import ScoredPartition
from streams.contract import MetricEvent, Prediction
from streams.features.snapshot import Manifest, checksums, records
from streams.features.snapshot import chunks_in as read_back
from streams.features.stream_table import StreamTable
from tests.streams.strategies import T0

HOUR = 3_600_000


class Log:
    """Records of one partition with a broker's time that follows event time by a second."""

    def __init__(self) -> None:
        self.offset = 0

    def events(self, ts: int, *stream_ids: str, error_rate: float = 0.0) -> list[SimpleNamespace]:
        found = []
        for stream_id in stream_ids:
            event = MetricEvent(
                stream_id=stream_id, ts=ts, latency_p99=2.0 + ts % 7, utilization=40.0, error_rate=error_rate
            )
            found.append(
                SimpleNamespace(
                    offset=self.offset, timestamp=ts + 1_000, key=b"node", headers=(), value=msgspec.json.encode(event)
                )
            )
            self.offset += 1
        return found


def partition() -> ScoredPartition:
    return ScoredPartition(3, topic="metrics", table=StreamTable(streams_max=8), champion=Champion())


def put_out(owner: ScoredPartition, batch: list[SimpleNamespace]) -> list[bytes]:
    outputs = owner.advance(batch)
    return [m.value for m in outputs.messages["predictions"]] + [bytes(m.value) for m in owner.flush()["features"]]


def script(log: Log) -> list[list[SimpleNamespace]]:
    """Two days: one stream goes on, one is silent for 30 h and comes back, and one comes to take its place."""
    batches = [log.events(T0 + 60_000 * i, "node/stays", "node/goes", "node/gone") for i in range(90)]
    batches += [log.events(T0 + HOUR * i, "node/stays") for i in range(3, 31)]
    batches.append(log.events(T0 + 31 * HOUR, "node/new", "node/stays"))
    batches += [log.events(T0 + 32 * HOUR + 60_000 * i, "node/goes", "node/stays", "node/new") for i in range(30)]
    return batches


def test_leaving_memory_changes_no_byte_of_what_comes_after_and_slots_are_used_again() -> None:
    forgetful, mindful = partition(), partition()
    for batch in script(Log()):
        assert put_out(forgetful, batch) == put_out(mindful, batch)
        forgetful.snapshot()

    assert forgetful._table.ids == ["node/stays", "node/new", "node/goes"]
    assert mindful._table.ids == ["node/stays", "node/goes", "node/gone", "node/new"]


def test_a_snapshot_written_around_it_restores_to_the_same_bytes() -> None:
    log, whole, owner = Log(), partition(), partition()
    newest: dict[bytes, bytes] = {}
    crc: dict[str, int] = {}
    for batch in script(log):
        assert put_out(owner, batch) == put_out(whole, batch)
        chunks, fields = owner.snapshot()
        crc |= checksums(chunks)
        manifest = Manifest(next_offset=log.offset, crc=dict(crc), **fields)
        newest |= dict(records(chunks, manifest))
        owner = partition()
        owner.restore(manifest, read_back(newest, manifest))


@pytest.mark.parametrize("hours", [26, 40])
def test_a_stream_in_an_episode_stays_and_its_episode_goes_on(hours: int) -> None:
    log, owner = Log(), partition()
    put_out(owner, log.events(T0, "node/sick", error_rate=0.2))
    for hour in range(hours):
        put_out(owner, log.events(T0 + HOUR * (hour + 1), "node/well"))
        owner.snapshot()

    after = put_out(owner, log.events(T0 + HOUR * (hours + 2), "node/sick", error_rate=0.2))

    assert msgspec.json.decode(after[0], type=Prediction).episode == f"node/sick@{T0}"
    assert owner._table.ids == ["node/sick", "node/well"]
