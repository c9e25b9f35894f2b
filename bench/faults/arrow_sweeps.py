"""Arrow sweeps with bytes changed, cut, lied about and put in other places: no crash, no bomb, the same in any fetch.

    python -m bench.faults.arrow_sweeps --seed 7 --seconds 60

Each round is a fetch of such sweeps, decoded whole, cut in two and record by record. It runs in a child: a crash, half
a gigabyte more than it began with, or 20 s without a word end the child, and not the fuzz.
"""

import faulthandler
import itertools
import json
import multiprocessing
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa

from bench.faults.arrow_bombs import bombs
from streams.contract import METRICS, MetricEvent
from streams.wire.arrow_sweep import CONTENT_TYPE, SCHEMA, encode
from streams.wire.decode import Rejected, decode
from streams.wire.records import Taken

START_MS = 1_700_000_000_000
SWEEPS = 12
"""In one fetch."""
_MEMORY_BYTES_MAX = 1 << 29
_ROUND_S_MAX = 20.0


class Found(NamedTuple):
    """What a fuzz found: a round is known by its seed."""

    rounds: int
    sweeps_read: int  # of those in all rounds: a fuzz in which Arrow refuses each proves little
    broken: list[str]  # a line a failure


def fuzz(seed: int, seconds: float, *, rounds_max: int | None = None) -> Found:
    """Decode mutated sweeps for so long, or so many rounds, and return what went wrong."""
    end, done, read, broken = time.monotonic() + seconds, 0, 0, []
    context = multiprocessing.get_context("spawn")
    while time.monotonic() < end and (rounds_max is None or done < rounds_max) and len(broken) < 10:
        ours, its = context.Pipe(duplex=False)
        child = context.Process(target=_rounds, args=(its, seed, done, rounds_max, end - time.monotonic()))
        child.start()
        its.close()
        try:
            while True:
                done, n, failures = ours.recv()
                read += n
                broken += failures
        except EOFError:
            child.join()
        if child.exitcode:
            broken.append(f"seed {seed} round {done}: the process ended with {child.exitcode}")
            done += 1
    return Found(done, read, broken)


def _rounds(said: Any, seed: int, first: int, rounds_max: int | None, seconds: float) -> None:
    """Go through rounds in the child, and say after each that it is done."""
    whole, bombed = originals(), list(bombs().values())
    one_round(random.Random(seed), whole[:1], whole[:1])  # what is loaded for good
    size = psutil.Process().memory_info().vms + _MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    end = time.monotonic() + seconds
    for n in itertools.count(first):
        if time.monotonic() >= end or n == rounds_max:
            break
        faulthandler.dump_traceback_later(_ROUND_S_MAX, exit=True)
        read, failures = one_round(random.Random(f"{seed} {n}"), whole, bombed)
        said.send((n + 1, read, [f"seed {seed} round {n}: {failure}" for failure in failures]))
    faulthandler.cancel_dump_traceback_later()


def one_round(chance: random.Random, whole: list[bytes], bombed: list[bytes]) -> tuple[int, list[str]]:
    """Decode one fetch in several cuts; return how many of its sweeps gave an event, and in what the cuts differ."""
    values = [mutated(chance.choice(whole), chance, whole) for _ in range(SWEEPS - 1)]
    values.insert(chance.randrange(SWEEPS), mutated(chance.choice(bombed), chance, whole))
    records = [Taken(i, START_MS, b"leaf-1", value, [CONTENT_TYPE]) for i, value in enumerate(values)]
    cut = chance.randrange(1, len(records))
    together = said_of([records])
    return len({place[0] for place in together[0]}), [
        f"another result when cut {how}"
        for how, parts in (("in two", [records[:cut], records[cut:]]), ("each alone", [[r] for r in records]))
        if said_of(parts) != together
    ]


def said_of(fetches: list[list[Taken]]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the events and the dead letters of some fetches, each in a form that compares by its bits."""
    events: list[tuple[Any, ...]] = []
    dead: list[Rejected] = []
    for fetch in fetches:
        decoded, rejected = decode(fetch)
        bits = np.ascontiguousarray(decoded.metrics).view(np.uint64).tolist()
        offsets = [fetch[i].offset for i in decoded.record.tolist()]
        events += zip(offsets, decoded.element.tolist(), decoded.stream_ids(), decoded.ts.tolist(), bits, strict=True)
        dead += rejected
    return events, sorted((r.record.offset, r.element, r.reason, r.detail, r.value or b"") for r in dead)


def originals() -> list[bytes]:
    """Return sweeps as producers write them, of every form that is read, and some that are not."""
    events = [
        MetricEvent(stream_id=f"leaf-1/{i}", ts=START_MS + i, utilization=i, error_rate=None if i % 3 else 0.5)
        for i in range(9)
    ]
    usual = encode(events)
    with pa.ipc.open_stream(usual) as reader:
        table = reader.read_all()
    coded = table.set_column(0, "stream_id", table["stream_id"].dictionary_encode())
    narrow = pa.schema([(f.name, pa.float32() if f.name in METRICS else f.type) for f in SCHEMA])
    nested = pa.array([{"a": [1, None], "b": "x"}] * len(table))
    return [
        usual,
        encode([events[0]]),
        _written(coded),
        _written(coded, rows=2),
        _written(table.cast(narrow), rows=4),
        _written(table.select(["ts", "utilization", "stream_id"]).append_column("v", pa.array([1, 2, None] * 3))),
        _written(table.append_column("nested", nested).append_column("note", nested.field("b").dictionary_encode())),
        _written(table.append_column("view", pa.array(["a" * 20] * len(table), pa.string_view()))),
        _written(table, metadata_version=pa.ipc.MetadataVersion.V4),
        _written(table, compression="zstd"),
    ]


def _written(table: pa.Table, *, rows: int = 1_000, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    value: bytes = sink.getvalue().to_pybytes()
    return value


def mutated(value: bytes, chance: random.Random, whole: list[bytes]) -> bytes:
    """Return a sweep with one to four changes, of which most leave its messages where they were."""
    changed = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choices(_MUTATIONS, _WEIGHTS)[0](changed, chance, whole)
    return bytes(changed)


Mutation = Callable[[bytearray, random.Random, list[bytes]], None]
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 64, 255, 256, 65_535, 65_536, 65_537, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32)


def _flip(value: bytearray, chance: random.Random, _whole: list[bytes]) -> None:
    if value:
        value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)


def _lie(value: bytearray, chance: random.Random, _whole: list[bytes]) -> None:
    """Put another number in the place of one: a length, an offset, a count, or a value."""
    code = chance.choice("bhiqiqiq")
    size = struct.calcsize(code)
    if len(value) < 64:
        return
    start, end = chance.choice(list(_messages(value)) or [(0, len(value))])
    at = chance.randrange(start, max(start + 1, min(end, len(value)) - size)) // min(size, 4) * min(size, 4)
    near = int.from_bytes(value[at : at + size], "little", signed=True) + chance.choice((-8, -4, -1, 1, 4, 8))
    number = chance.choice((near, near, chance.choice(_NUMBERS), -chance.choice(_NUMBERS), len(value) - at))
    value[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")


def _cut(value: bytearray, chance: random.Random, _whole: list[bytes]) -> None:
    del value[chance.randrange(len(value) + 1) :]


def _exchange(value: bytearray, chance: random.Random, whole: list[bytes]) -> None:
    """Drop a message, say it again, or put one of another stream there."""
    places = list(_messages(value))
    if not places:
        return
    start, end = chance.choice(places)
    other = chance.choice(whole)
    others = list(_messages(other))
    taken = other[slice(*chance.choice(others))]
    value[start:end] = chance.choice((b"", value[start:end] * 2, taken, value[start:end] + taken))


def _shift(value: bytearray, chance: random.Random, _whole: list[bytes]) -> None:
    """Put some bytes in or take some out: what comes after them is no longer aligned."""
    at, n = chance.randrange(len(value) + 1), chance.randrange(1, 9)
    value[at : at + chance.choice((0, n))] = chance.randbytes(chance.choice((0, n)))


_MUTATIONS: tuple[Mutation, ...] = (_flip, _lie, _exchange, _cut, _shift)
_WEIGHTS = (4, 12, 2, 1, 1)


def _messages(value: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where the messages lie, each with its body, as far as they can be told apart."""
    starts = [i for i in range(0, len(value) - 7, 8) if value[i : i + 4] == b"\xff" * 4]
    return iter(itertools.pairwise([*starts, len(value)]))


@click.command()
@click.option("--seed", type=int, help="Default: a fresh one, which is printed.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(0))
def main(seed: int | None, seconds: float) -> None:
    """Decode mutated Arrow sweeps for a while; exits with 1 if any breaks something."""
    seed = random.randrange(1 << 32) if seed is None else seed
    found = fuzz(seed, seconds)
    click.echo(json.dumps({"seed": seed} | found._asdict()))
    sys.exit(bool(found.broken))


if __name__ == "__main__":
    main()
