"""`python -m bench.faults.hostile_bytes`: bytes that lie, for minutes, beside pages that end the process when touched.

What is valid is made first, and then changed: bits flipped, pieces cut and doubled, sizes and counts replaced, values
followed by headers that go on where they end. Every array that a kernel reads or writes lies against a guard
page, before or behind it, and what it gives is held against plain Python over the same bytes.
"""

import ctypes
import itertools
import logging
import mmap
import random
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import click
import cramjam
import numpy as np
from aiokafka.errors import CorruptRecordException
from numpy.typing import NDArray

from streams.contract import METRICS
from streams.inside_aiokafka import built, calc_crc32c
from streams.wire import packed, unpacked
from streams.wire.decode import decode
from streams.wire.events import FUTURE_MS_MAX, decode_events, flaw, metrics_of
from streams.wire.fetched import read
from streams.wire.scan import ELEMENT, ID_END, ID_START, RECORD, TS, scan
from streams.wire.spans import Spans

NOW_MS = 1_767_225_600_000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_PAGE, _PROT_NONE = mmap.PAGESIZE, 0
_STUCK_S = 60.0


class Guarded:
    """Memory for one array at a time, with a page before and behind it that nobody may touch."""

    def __init__(self, room: int) -> None:
        self._size = -(-room // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, self._size + 2 * _PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for page in (address, address + _PAGE + self._size):
            if _LIBC.mprotect(page, _PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._bytes = np.frombuffer(self._map, np.uint8, self._size, _PAGE)

    def empty(self, rng: random.Random, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return an array at one end of it; what was there before is gone."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= self._size, f"{size} bytes for {self._size}"
        some = self._bytes[self._size - size :] if rng.random() < 0.8 else self._bytes[:size]
        some[:] = 0xA5
        return some.view(dtype).reshape(shape)

    def holding(self, rng: random.Random, data: bytes) -> NDArray[np.uint8]:
        """Return the bytes as an array that can't be written, as those of a fetch."""
        array = self.empty(rng, (len(data),), np.uint8)
        array[:] = np.frombuffer(data, np.uint8)
        array.flags.writeable = False
        return array


DATA, PLACES, METRIC_ROWS, FLAGS, OUT = (Guarded(1 << 18) for _ in range(5))


USUAL = b'{"v":1,"stream_id":"leaf-012/17","ts":1767225600000,"latency_p99":null,"utilization":42.5,"qp_errors":0}'


def event(rng: random.Random) -> bytes:
    """Return the JSON of an event, mostly as producers write it."""
    fields: list[tuple[str, str]] = [(name, _number(rng)) for name in rng.sample(METRICS, rng.randint(0, len(METRICS)))]
    fields += [("stream_id", f'"leaf-{rng.randrange(99):03}/{rng.randrange(64)}"')]
    fields += [("ts", str(NOW_MS - rng.choice([0, 0, 1, NOW_MS, -FUTURE_MS_MAX - 1])))]
    fields += rng.choice([[], [("v", "1")], [("v", "2")], [("extra", '{"ber":1e-9}')], [("unknown", "[]")]])
    rng.shuffle(fields)
    space = rng.choice(["", "", " ", "\r\n\t"])
    return ("{" + f",{space}".join(f'"{key}":{space}{value}' for key, value in fields) + "}").encode()


def _number(rng: random.Random) -> str:
    value = rng.choice([rng.random(), rng.random() * 100, rng.randrange(101), 10 ** rng.uniform(-30, 13), 0])
    return rng.choice([repr(value), f"{value:.3f}", f"{value:e}", "null", str(rng.randrange(1 << 66))])


def changed(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with something about them that is wrong, or with nothing at all."""
    found = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        a, b = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        match rng.randrange(6):
            case 0 if found:
                found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
            case 1:
                del found[a : min(b, a + rng.choice([1, 1, 4, 999]))]
            case 2:
                found[a:a] = found[a : min(b, a + 64)]
            case 3:
                found[a : a + 1] = bytes([rng.choice(b',:{}[]"\\0.-eE \0\xff')])
            case 4:
                del found[a:]
            case 5:
                found[a : a + rng.randrange(3)] = varint(lie(rng))
    return bytes(found)


def lie(rng: random.Random) -> int:
    """Return a size or a count that somebody may claim."""
    return rng.choice([0, 1, -1, -2, 22, 63, 64, (1 << 31) - 1, -(1 << 31), (1 << 62), (1 << 63) - 1, -(1 << 63)])


def varint(value: int) -> bytes:
    """Return the zigzag varint of an int64."""
    out = bytearray()
    zigzag = (value << 1 ^ value >> 63) & (1 << 64) - 1
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def scan_case(rng: random.Random) -> None:
    """Hold the scanner to msgspec, among values that go on behind their ends."""
    values = [changed(rng, _value(rng)) for _ in range(rng.randint(0, 4))] + [USUAL]
    between = [changed(rng, rng.choice([b"", b"\0", b",", b"," + event(rng) + b"]", b"}]", b'":1}'])) for _ in values]
    pieces = list(itertools.chain.from_iterable(zip(values, between, strict=True)))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)[::2]
    if pieces and rng.random() < 0.5:
        pieces.pop()  # nothing behind the last value
    sizes = np.array([len(value) for value in values], np.int64)
    lacks = rng.random() < 0.05
    room = sum(value.count(b"{") for value in values) - lacks
    places, metrics = PLACES.empty(rng, (6, room), np.int64), METRIC_ROWS.empty(rng, (room, len(METRICS)), np.float64)
    is_mine, seen = FLAGS.empty(rng, (len(values),), np.uint8), np.full(len(values), NOW_MS)
    n, left, ahead = scan(
        DATA.holding(rng, b"".join(pieces)), ends - sizes, sizes, seen, places, metrics, is_mine, FUTURE_MS_MAX
    )
    assert left == is_mine.size - is_mine.sum(), "records left"
    assert ahead == (places[TS, :n] > NOW_MS + FUTURE_MS_MAX).sum(), "events ahead"
    joined, got = b"".join(pieces), 0
    for r in np.flatnonzero(is_mine).tolist():
        found = decode_events(values[r])
        for element, wanted in enumerate(found if isinstance(found, list) else [found]):
            assert flaw(wanted) is None, f"taken: {wanted}"
            row = places[:, got].tolist()
            assert (row[TS], row[RECORD], row[ELEMENT]) == (wanted.ts, r, element), f"{row} for {wanted}"
            assert joined[row[ID_START] : row[ID_END]].decode() == wanted.stream_id, f"{row} for {wanted}"
            assert metrics[got].tobytes() == metrics_of([wanted]).tobytes(), f"{metrics[got]} for {wanted}"
            got += 1
    assert got == n, f"{n} events for {got}"
    assert lacks or is_mine[-1], "the usual event is left"


def _value(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return event(rng)
    return b"[" + b",".join(event(rng) for _ in range(rng.randint(0, 4))) + b"]"


Plain = tuple[int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]
"""Offset, time, key, value and headers of a record."""


def body(rng: random.Random) -> tuple[bytes, int]:
    """Return the records of a batch as they lie one after another, some of them lies, and how many there are."""
    is_honest = rng.random() < 0.5
    n = rng.randint(1, 5)

    def said(value: int) -> bytes:
        return varint(value if is_honest or rng.random() < 0.9 else lie(rng))

    def piece(value: bytes | None) -> bytes:
        return said(-1 if value is None else len(value)) + (value or b"")

    records = []
    for i in range(n):
        headers = [(rng.randbytes(rng.randrange(4)), rng.choice([None, b"", b"{", event(rng)])) for _ in range(22)]
        headers = headers[: rng.choice([0, 0, 0, 1, 2, 22])]
        record = b"\0" + said(rng.randrange(99)) + said(i) + piece(rng.choice([None, b"", b"leaf", b"\xff"]))
        record += piece(rng.choice([None, b"", event(rng), _value(rng)])) + said(len(headers))
        record += b"".join(piece(name) + piece(value) for name, value in headers)
        records.append(said(len(record)) + record)
    joined = b"".join(records)
    return (joined if is_honest else changed(rng, joined)), n


def unpack_case(rng: random.Random) -> None:
    """Hold the reader of batches to one in plain Python, which refuses what it refuses."""
    data, n = body(rng)
    n = n if rng.random() < 0.9 else rng.randint(0, 9)
    place, base = rng.choice([0, 9]), rng.choice([0, 1 << 40])
    places, is_plain = PLACES.empty(rng, (7, n), np.int64), FLAGS.empty(rng, (n,), np.bool_)
    some = places if rng.random() < 0.1 else places[:, :n]
    append_time = rng.choice([-1, NOW_MS])
    end = unpacked._unpack(DATA.holding(rng, data), place, base, base + n, NOW_MS, append_time, some, is_plain)
    wanted = plain(data, n, base, append_time)
    assert (end == len(data)) == (wanted is not None), f"{end} of {len(data)}: {wanted}"
    if wanted is None:
        return
    held = bytes(place) + data  # headers are read where the kernel says they begin
    records = unpacked.Records(held, places.copy(), is_plain.copy())
    got = [(r.offset, r.timestamp, r.key, r.value, [(k, v) for k, v in r.headers]) for r in records]
    said = [(*r[:4], [(name.decode(errors="replace"), value) for name, value in r[4]]) for r in wanted]
    assert got == said, f"{got} for {said}"
    plain_ones = [r[3] is not None and not r[4] and (r[2] or b"").isascii() and r[1] >= 0 for r in wanted]
    assert records.is_plain.tolist() == plain_ones, f"{records.is_plain} for {wanted}"


def plain(data: bytes, n: int, base: int, append_time: int) -> list[Plain] | None:
    """Read the n records of a batch, None where their sizes and counts don't fit in it."""
    records: list[Plain] = []
    at = 0
    try:
        for _ in range(n):
            size, at = _int(data, at)
            inner = data[at : at + size] if 0 < size <= len(data) - at else None
            if inner is None:
                return None
            record = _plain(inner, base, append_time)
            if record[0] <= (records[-1][0] if records else base - 1) or record[0] >= base + n:
                return None
            records.append(record)
            at += size
    except (ValueError, IndexError):
        return None
    return records if at == len(data) else None


def _plain(record: bytes, base: int, append_time: int) -> Plain:
    ts_delta, at = _int(record, 1)
    offset_delta, at = _int(record, at)
    key, at = _piece(record, at)
    value, at = _piece(record, at)
    count, at = _int(record, at)
    headers = []
    for _ in range(min(count, len(record))):
        name, at = _piece(record, at)
        content, at = _piece(record, at)
        if name is None:
            raise ValueError("a header without a name")
        headers.append((name, content))
    if len(headers) != count or at != len(record):
        raise ValueError("headers that don't fit in")
    wrapped = (NOW_MS + ts_delta + (1 << 63)) % (1 << 64) - (1 << 63)
    return base + offset_delta, wrapped if append_time < 0 else append_time, key, value, headers


def _piece(record: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _int(record, at)
    if not -1 <= size <= len(record) - at:
        raise ValueError("a size that doesn't fit in")
    return (None, at) if size == -1 else (record[at : at + size], at + size)


def _int(data: bytes, at: int) -> tuple[int, int]:
    zigzag = 0
    for shift in range(0, 64, 7):
        zigzag |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            zigzag &= (1 << 64) - 1
            return zigzag >> 1 ^ -(zigzag & 1), at
    raise ValueError("a varint that does not end")


def pack_case(rng: random.Random) -> None:
    """Let the writer of batches fill a buffer to its last byte, and read the same records of it."""
    pieces = [
        [rng.choice([None, b"", event(rng), rng.randbytes(rng.choice([1, 63, 64, 8_191]))]) for _ in range(2)]
        for _ in range(rng.randint(1, 9))
    ]
    keys, values = (Spans.of(side) for side in zip(*pieces, strict=True))
    ends, sizes = packed._cut(keys.size, values.size, 1 << 20)
    assert ends.tolist() == [len(pieces)], "one batch"
    keys = keys._replace(buffer=DATA.holding(rng, keys.buffer.tobytes()))
    values = values._replace(buffer=FLAGS.holding(rng, values.buffer.tobytes()))
    out = OUT.empty(rng, (int(sizes[0]),), np.uint8)
    packed._write(*keys, *values, 0, len(pieces), out)
    batch = packed.batch_of(bytearray(out), len(pieces), timestamp_ms=NOW_MS, is_transactional=False)
    [records] = read(bytes(built(batch)), partition="metrics-0", first=0).parts
    assert [[r.key, r.value] for r in records] == pieces, f"{list(records)} for {pieces}"


_CODECS: list[Callable[[bytes], bytes]] = [
    bytes,
    lambda data: bytes(cramjam.gzip.compress(data)),
    lambda data: bytes(cramjam.snappy.compress_raw(data)),
    lambda data: bytes(cramjam.lz4.compress(data)),
    lambda data: bytes(cramjam.zstd.compress(data)),
]


def fetch_case(rng: random.Random) -> None:
    """Read whole fetches to dead letters and events: whatever comes, the offset moves or the fetch is refused."""
    offset, batches = 0, []
    for _ in range(rng.randint(1, 3)):
        data, n = body(rng)
        codec = rng.randrange(len(_CODECS)) if rng.random() < 0.5 else 0
        content = _CODECS[codec](data)
        content = content if rng.random() < 0.8 else changed(rng, content)
        said = n if rng.random() < 0.95 else lie(rng) & 0x7FFFFFFF
        head = struct.pack(">hiqqqhii", codec, n - 1, NOW_MS, NOW_MS, -1, -1, -1, said)
        crc = calc_crc32c(head + content)
        batches.append(struct.pack(">qiibI", offset, 9 + len(head) + len(content), -1, 2, crc) + head + content)
        offset += n
    is_changed = rng.random() < 0.2
    data = changed(rng, b"".join(batches)) if is_changed else b"".join(batches)
    first = 0
    while first < offset:
        try:
            fetched = read(data, partition="metrics-0", first=first)
        except CorruptRecordException:
            if is_changed:
                return
            raise
        if fetched.next_offset == first:
            assert is_changed, f"nothing behind {first} of {offset}"
            return
        first = fetched.next_offset
        for records in fetched.parts:
            decoded, rejected = decode(records)
            dead = np.searchsorted(records.offset, [r.record.offset for r in rejected])
            of = {*decoded.record.tolist(), *dead.tolist()}
            assert of == set(range(len(records))), f"{of} of {len(records)} records became something"


CASES: tuple[Callable[[random.Random], None], ...] = (
    scan_case,
    scan_case,
    unpack_case,
    unpack_case,
    pack_case,
    fetch_case,
)


def run(seed: int, cases: Iterable[int], under_way: "Synchronized[int] | None" = None) -> int:
    """Run cases by number, and return how many. Raises what is wrong with one, and says which it is."""
    logging.getLogger("streams.wire.fetched").setLevel(logging.CRITICAL)  # a batch that is given up is no news here
    n = 0
    for case in cases:
        if under_way is not None:
            under_way.value = case
        try:
            CASES[case % len(CASES)](random.Random(f"{seed} {case}"))
        except Exception as error:
            error.add_note(f"again by: python -m bench.faults.hostile_bytes --seed {seed} --case {case}")
            raise
        n += 1
    return n


def _until(end: float) -> Iterator[int]:
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


def _child(seed: int, seconds: float, under_way: "Synchronized[int]") -> None:
    run(seed, _until(time.monotonic() + seconds), under_way)


@click.command()
@click.option("--seed", type=int, help="Of every choice; default: a fresh one, which is printed.")
@click.option("--seconds", type=float, default=120.0, show_default=True)
@click.option("--case", type=int, help="Only this one, in this process.")
def main(seed: int | None, seconds: float, case: int | None) -> None:
    """Feed bytes that lie to what reads bytes from outside. Exits with 1 if a case differs, or touched a guard page.

    \b
        python -m bench.faults.hostile_bytes --seed 7 --seconds 600
    """  # noqa: D301  # click wants a real backspace
    seed = random.randrange(1 << 32) if seed is None else seed
    if case is not None:
        run(seed, range(case, case + 1))
        return
    context = get_context("spawn")
    under_way: Synchronized[int] = context.Value("q", -1)
    child = context.Process(target=_child, args=(seed, seconds, under_way))
    child.start()
    child.join(seconds + _STUCK_S)
    if child.is_alive():
        child.kill()  # a count of headers that is believed takes years
        child.join()
    click.echo(f"hostile bytes, seed {seed}: case {under_way.value} was the last, exit {child.exitcode}", err=True)
    sys.exit(int(child.exitcode != 0))


if __name__ == "__main__":
    main()
