"""A short cut of `make test-faults`, and what holds that suite together."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from bench.faults import bench, feed, kinds, proxy
from bench.faults.scenario import FaultDidNotFire, Worker
from streams.features.snapshot import Manifest, SnapshotRefused, checksums, chunks_in, records
from streams.group.failpoints import STEPS

SEED = 20_261_123


@pytest.mark.timeout(1_800)
def test_faults_of_several_kinds_lose_nothing_and_get_nothing_wrong():
    tries = {
        "SIGKILL at each step": 4,
        "exactly once: at each step": 3,
        "SIGKILL at random": 1,
        "connection cut": 2,
        "snapshot chunk bit-flipped": 1,
        "future-stamped flood": 1,
    }

    figures = bench(seed=SEED, tries=tries, at_once=3)

    assert (figures["tried"], figures["lost"], figures["wrong"]) == (12, 0, 0), figures
    assert figures["repeats_exactly_once"] == 0, figures


def run(fail_at: str, step: str, times: int) -> int:
    code = f"from streams.group.failpoints import reached\nfor _ in range({times}): reached({step!r})"
    environment = os.environ | {"LINKCAST_FAIL_AT": fail_at}
    return subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL).returncode


def test_a_fail_point_kills_at_its_step_the_nth_time_and_not_before():
    assert run("committed:3", "committed", 2) == 0
    assert run("committed:3", "committed", 3) == -signal.SIGKILL
    assert run("committed:1", "fetched", 9) == 0


@pytest.mark.parametrize("fail_at", ["nowhere:1", "committed", "committed:x", "committed:0", ""])
def test_a_fail_point_that_could_not_fire_is_an_error(fail_at):
    assert run(fail_at, "fetched", 1) == 1


def test_the_runner_has_every_fail_point_that_is_declared():
    import streams.group

    shell = "".join(
        Path(streams.group.__path__[0], name).read_text()
        for name in ("outlet.py", "recovery.py", "state_topic.py", "task.py")
    )

    assert set(re.findall(r'reached\("(\w+)"\)', shell)) == set(STEPS)


def test_the_feed_is_the_same_for_a_seed_and_has_all_sorts_of_records():
    first, second = (list(islice(feed.records(random.Random(SEED)), 5_000)) for _ in range(2))

    assert first == second
    assert {key[-1] % feed.PARTITIONS for key, _ in first} == {0, 1}
    assert any(value.startswith(b"[") for _, value in first)
    events = [msgspec.json.decode(value) for _, value in first if value.startswith(b"{")]
    assert any(a["ts"] > b["ts"] + 600_000 for a, b in pairwise(events))  # too late
    assert any(a == b for a, b in pairwise(events))


async def test_an_end_that_nobody_caused_is_no_fault(tmp_path):
    (tmp_path / "log").write_text("it just stopped")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(3)")

    with pytest.raises(FaultDidNotFire, match="ended with 3; its log ends with:\nit just stopped"):
        await Worker(process, tmp_path / "log").ended(-signal.SIGKILL)


@pytest.fixture
async def echo():
    """A server that sends each frame back."""

    async def answer(reader, writer):
        try:
            while True:
                writer.write(await reader.readexactly(4 + 9))
        except (OSError, EOFError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


FRAME = (9).to_bytes(4) + b"127.0.0.1"


async def test_the_proxy_gives_its_own_address_for_the_brokers(echo):
    async with proxy.proxied(echo, "127.0.0.2") as behind:
        reader, writer = await asyncio.open_connection("127.0.0.2", behind.port)
        writer.write(FRAME)

        assert await reader.readexactly(13) == (9).to_bytes(4) + b"127.0.0.2"
        assert behind.delayed == 0

        behind.delay_s = 0.01
        writer.write(FRAME)
        await reader.readexactly(13)
        assert behind.delayed == 2  # there and back
        writer.close()


async def test_a_cut_proxy_ends_what_runs_through_it_and_takes_nothing_new_until_it_is_mended(echo):
    async def carried():
        reader, writer = await asyncio.open_connection("127.0.0.2", behind.port)
        try:
            writer.write(FRAME)
            return len(await reader.read(13))
        except ConnectionError:
            return 0
        finally:
            writer.close()

    async with proxy.proxied(echo, "127.0.0.2") as behind:
        reader, writer = await asyncio.open_connection("127.0.0.2", behind.port)
        writer.write(FRAME)
        await reader.readexactly(13)
        behind.cut()
        with pytest.raises((ConnectionError, EOFError)):
            await reader.readexactly(1)
        assert behind.severed == 1
        assert await carried() == 0

        behind.mend()
        assert await carried() == 13
        writer.close()


@pytest.mark.parametrize("how", [kinds.truncated, kinds.bit_flipped])
def test_a_tampered_chunk_is_never_what_the_manifest_means(how):
    rng = random.Random(SEED)
    chunks = {"head/0/0": rng.randbytes(50) * 20}
    manifest = Manifest(feature_code="f", next_offset=1, streams=1, model="rules", crc=checksums(chunks))
    newest = dict(records(chunks, manifest))
    for _ in range(200):
        tampered = {b"head/0/0": how(newest[b"head/0/0"], rng)}
        with pytest.raises(SnapshotRefused):
            chunks_in(newest | tampered, manifest)
