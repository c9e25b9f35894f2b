"""Whatever a broker sends: what can be read is read, the rest is refused with its coordinates, in bounded memory."""

import cramjam
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from bench.faults.hostile_bytes import run, varint
from streams.wire import decompression, fetched
from streams.wire.decode import decode
from streams.wire.fetched import RECORDS_MAX, Fetched
from streams.wire.records import HEADERS_MAX, Taken
from streams.wire.unpacked import BATCH_RECORDS_MAX
from tests.streams.batches import NOW_MS, batch_of, laid_out, old_messages, record_of

EVENT = b'{"stream_id":"leaf-1/1","ts":%d,"utilization":1}' % NOW_MS
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
COMPRESS = {
    GZIP: cramjam.gzip.compress,
    SNAPPY: cramjam.snappy.compress_raw,
    LZ4: cramjam.lz4.compress,
    ZSTD: cramjam.zstd.compress,
}
NO_BYTES, NO_HEADERS = varint(-1), varint(0)
HUGE = (1 << 63) - 1


def read(data: bytes, *, first: int = 0) -> Fetched:
    return fetched.read(data, partition="metrics-3", first=first)


def taken(value: bytes | None, *, timestamp: int = NOW_MS, headers=()) -> Taken:
    return Taken(0, timestamp, b"leaf-1", value, list(headers))


def became(found: Fetched) -> tuple[list[int], list[tuple[int, str]]]:
    """The offsets of events, and of dead letters with their reasons."""
    events: list[int] = []
    dead: list[tuple[int, str]] = []
    for records in found.parts:
        decoded, rejected = decode(records)
        events += records.offset[decoded.record].tolist()
        dead += [(r.record.offset, r.reason) for r in rejected]
    return events, dead


def test_bytes_that_lie_are_answered_as_plain_python_answers_them_and_no_guard_page_is_touched() -> None:
    assert run(20_261_130, range(1_500)) == 1_500


@pytest.mark.parametrize("last", [[], [taken(None)], [taken(b"a stream", headers=[("content-type", b"arrow")])]])
def test_a_sweep_that_goes_on_in_its_record_s_headers_ends_where_its_value_does(last) -> None:
    # The 22 headers are a comma as a byte, and the first one's name goes on with the sweep.
    name = '{"stream_id":"leaf-1/1","ts":1,"utilization":1},' * 45
    made = [taken(b"[" + EVENT, headers=[(name[1:], b"")] + [("", b"")] * 21), *last]

    events, dead = became(read(batch_of(made)))

    assert (events, dead[0]) == ([], (0, "not_json"))


LIES = {
    "a size that comes round": record_of(size=HUGE),
    "a size past the end": record_of(NO_BYTES, NO_BYTES, NO_HEADERS, size=99),
    "no size": record_of(size=0),
    "a key that comes round": record_of(varint(HUGE), NO_BYTES, NO_HEADERS),
    "a value that comes round": record_of(NO_BYTES, varint(HUGE), NO_HEADERS),
    "a value of minus two": record_of(NO_BYTES, varint(-2), NO_HEADERS),
    "a billion headers": record_of(NO_BYTES, NO_BYTES, varint(10**9)),
    "minus one headers": record_of(NO_BYTES, NO_BYTES, varint(-1)),
    "a header's name past the end": record_of(NO_BYTES, NO_BYTES, varint(1), varint(HUGE), NO_BYTES),
    "a header without a name": record_of(NO_BYTES, NO_BYTES, varint(1), NO_BYTES, NO_BYTES),
    "a header's value past the end": record_of(NO_BYTES, NO_BYTES, varint(1), varint(0), varint(1 << 40)),
    "a varint that does not end": b"\xff" * 12,
    "bytes behind the last record": record_of(NO_BYTES, NO_BYTES, NO_HEADERS) + b"\0",
}


@pytest.mark.parametrize("body", LIES.values(), ids=LIES)
def test_a_batch_whose_sizes_and_counts_lie_is_a_dead_letter_by_its_place_and_its_neighbours_are_read(body) -> None:
    before, behind = batch_of([taken(EVENT)]), (2).to_bytes(8, "big") + batch_of([taken(EVENT)])[8:]

    found = read(before + laid_out(body, base=1) + behind)

    assert became(found) == ([0, 2], [(1, "corrupt")])
    assert found.next_offset == 3


@pytest.mark.parametrize("n", [0, -1, 2, 1 << 30])
def test_a_batch_that_says_another_number_of_records_is_a_dead_letter(n: int) -> None:
    found = read(laid_out(record_of(NO_BYTES, NO_BYTES, NO_HEADERS), n=n, last_delta=0))

    assert became(found) == ([], [(0, "corrupt")])
    assert found.next_offset == 1


@pytest.mark.parametrize("codec", [*COMPRESS, 5, 7])
def test_a_compressed_body_that_is_broken_becomes_a_dead_letter_for_each_record(codec: int) -> None:
    content = bytes(COMPRESS.get(codec, bytes)(record_of(NO_BYTES, NO_BYTES, NO_HEADERS) * 3))

    found = read(laid_out(content[:-2], n=3, codec=codec, base=7))

    assert became(found) == ([], [(7, "corrupt"), (8, "corrupt"), (9, "corrupt")])
    assert found.next_offset == 10


@given(st.sampled_from(sorted(COMPRESS)), st.integers(1, 2_000), st.binary(max_size=20))
def test_what_fits_in_is_decompressed_whatever_it_grows_to(codec: int, times: int, piece: bytes) -> None:
    body = memoryview(bytes(COMPRESS[codec](piece * times)))

    assert bytes(decompression.decompressed(body, codec)) == piece * times


@pytest.fixture
def small(monkeypatch):
    """A bound of 64 KiB in place of 64 MiB, so that what is beyond it is made quickly."""
    for module in (decompression, fetched):
        monkeypatch.setattr(module, "BYTES_MAX", 1 << 16)
    monkeypatch.setattr(fetched, "FETCH_BYTES_MAX", 1 << 16)


def xerial(*blocks: bytes) -> bytes:
    framed = (len(block).to_bytes(4, "big") + block for block in blocks)
    return b"\x82SNAPPY\0" + b"\0\0\0\1" * 2 + b"".join(framed)


@pytest.mark.parametrize("codec", COMPRESS)
def test_a_batch_that_grows_beyond_all_bounds_becomes_dead_letters_by_place_and_the_offset_moves(codec, small) -> None:
    contents = [bytes(COMPRESS[codec](b" " * (1 << 20)))]
    if codec == SNAPPY:
        contents.append(xerial(*[bytes(cramjam.snappy.compress_raw(b" " * (1 << 15)))] * 3))

    for content in contents:
        found = read(laid_out(content, n=3, codec=codec, base=7))

        assert became(found) == ([], [(7, "too_large"), (8, "too_large"), (9, "too_large")])
        assert found.next_offset == 10
        assert became(read(laid_out(content, n=3, codec=codec, base=7), first=9)) == ([], [(9, "too_large")])


def test_of_a_fetch_no_more_is_decompressed_than_one_batch_beyond_the_bound(small) -> None:
    bomb = bytes(cramjam.zstd.compress(b" " * (1 << 20)))
    data = b"".join(laid_out(bomb, codec=ZSTD, base=base) for base in range(3))

    assert [(read(data, first=first).next_offset) for first in range(3)] == [1, 2, 3]


def test_a_batch_of_more_records_than_any_is_one_dead_letter() -> None:
    n = BATCH_RECORDS_MAX + 1

    found = read(laid_out(record_of(NO_BYTES, NO_BYTES, NO_HEADERS) * 9, n=n))

    assert became(found) == ([], [(0, "too_large")])
    assert found.next_offset == n
    assert f"offsets 0 to {n - 1}" in decode(found.parts[0])[1][0].detail


def test_no_part_has_more_records_than_a_turn_takes() -> None:
    found = read(batch_of([taken(EVENT)] * (2 * RECORDS_MAX + 1)))

    assert [len(records) for records in found.parts] == [RECORDS_MAX, RECORDS_MAX, 1]
    assert became(found)[0] == list(range(2 * RECORDS_MAX + 1))


def test_of_a_record_with_headers_without_end_the_first_ones_are_read() -> None:
    body = record_of(NO_BYTES, NO_BYTES, varint(2 * HEADERS_MAX), b"\0\1" * 2 * HEADERS_MAX)

    [[record]] = read(laid_out(body)).parts

    assert len(record.headers) == HEADERS_MAX


@pytest.mark.parametrize("at", [8, 16, 20, 30, 61])
def test_a_batch_that_is_not_what_was_written_is_refused_with_its_coordinates(at: int) -> None:
    good, bad = batch_of([taken(EVENT)]), bytearray((1).to_bytes(8, "big") + batch_of([taken(EVENT)])[8:])
    bad[at] ^= 0x84

    with pytest.raises(CorruptRecordException, match=r"metrics-3@1: .*asked for again.*docs/operations\.md"):
        read(good + bytes(bad))


@pytest.mark.parametrize("old", [False, True])
def test_offsets_that_go_back_within_a_fetch_are_refused(old: bool) -> None:
    one = old_messages([taken(EVENT)], magic=1) if old else batch_of([taken(EVENT)])

    with pytest.raises(CorruptRecordException, match=r"metrics-3@1: .*before it"):
        read(one + one)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4])
def test_messages_of_old_formats_say_what_aiokafka_reads_of_them(magic: int, codec: int) -> None:
    if (magic, codec) == (0, LZ4):
        pytest.skip("never was")
    made = [taken(EVENT), taken(None), Taken(0, NOW_MS + 5, None, b"[]", [])]
    data = old_messages(made, magic=magic, codec=codec)

    found = read(data)

    plain, wanted = MemoryRecords(data), []
    while plain.has_next():
        wanted += [(r.offset, r.timestamp or -1, r.key, r.value) for r in plain.next_batch()]
    assert [(r.offset, r.timestamp, r.key, r.value) for records in found.parts for r in records] == wanted
    assert found.next_offset == 3
    assert [r.offset for records in read(data, first=2).parts for r in records] == [2]


def test_a_message_smaller_than_a_batch_s_header_moves_the_offset() -> None:
    data = old_messages([Taken(0, NOW_MS, None, b"{}", [])], magic=1)

    assert len(data) < 61
    assert became(read(data)) == ([], [(0, "wrong_type")])
    assert read(data).next_offset == 1


@pytest.mark.parametrize("data", [old_messages([taken(EVENT)], magic=0), batch_of([taken(EVENT, timestamp=-1)])])
def test_a_record_without_a_time_is_a_dead_letter_that_says_so(data: bytes) -> None:
    assert became(read(data)) == ([], [(0, "no_time")])


def test_old_messages_that_lie_are_refused(small) -> None:
    flipped = bytearray(old_messages([taken(EVENT)], magic=1))
    flipped[-1] ^= 1
    with pytest.raises(CorruptRecordException, match="metrics-3@0"):
        read(bytes(flipped))

    assert became(read(old_messages([taken(b" " * (1 << 20))], magic=1, codec=GZIP))) == ([], [(0, "too_large")])


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_more_than_refused(data: bytes) -> None:
    try:
        found = read(data)
    except CorruptRecordException:
        return
    assert found.next_offset >= 0
