"""Snapshots of a partition's state on topic `state`: only what changed since the last one, whole in one transaction.

State is arrays whose first axis is the stream's slot. They are cut into columns (a pane over all streams) and chunks of
slots; a closed pane hardly ever changes, so a snapshot writes few of them. A chunk's record is keyed by its name, and
the manifest, last of the transaction, knows the checksum of every chunk that is current: what compaction keeps is
always one whole snapshot, and a chunk that is missing, damaged or of another time shows.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from streams.contract import LinkcastError

CHUNK_SLOTS = 8_192
"""Slots of one record: at the widest column 290 KB before compression, below the broker's limit for a record."""
IDS_CHUNK_SLOTS = 2_048
"""Of ids, 200 bytes each and a line's end: 412 KB, were they such as don't compress."""
CHUNK_BYTES_MAX = 8 << 20
MANIFEST = b"manifest"
SCHEMA = 2  # 1 had 8,192 ids in a chunk, under the same keys

Chunks = dict[str, bytes]


class SnapshotRefused(LinkcastError):
    """A snapshot that this worker can't go on from."""


class Part(NamedTuple):
    """Arrays that are written together, one row a slot.

    With `dirty` of more than one element the last axis of each array is the column, and only dirty ones are written.
    """

    name: str
    arrays: tuple[NDArray[Any], ...]
    dirty: NDArray[np.uint8]  # (columns,) 1 where a column has changed since the last snapshot


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of, and what belongs to it."""

    schema: int = SCHEMA
    feature_code: str  # `features_sha256` of who wrote it: another kernel's panes mean something else
    next_offset: int  # of the source partition: where reading goes on
    streams: int
    model: str
    partitions: int = 0  # of the source topic: with another number, keys and their streams lie elsewhere
    seen: int = -1  # broker's time of the record before `next_offset`, ms: another one there is another log
    crc: dict[str, int]  # CRC-32 of every chunk that is current, by its key


def copy_dirty(parts: Iterable[Part], ids: Sequence[str], ids_written: int) -> Chunks:
    """Copy what changed since the last call, by key, and call it clean. Fast: the hop waits for it."""
    chunks: Chunks = {}
    n = len(ids)
    for part in parts:
        for column in np.flatnonzero(part.dirty):
            for first in range(0, n, CHUNK_SLOTS):
                rows = slice(first, min(n, first + CHUNK_SLOTS))
                chunks[f"{part.name}/{column}/{first // CHUNK_SLOTS}"] = b"".join(
                    _cut(array, rows, int(column), len(part.dirty)).tobytes() for array in part.arrays
                )
        part.dirty[:] = 0
    for number in range(ids_written // IDS_CHUNK_SLOTS, -(-n // IDS_CHUNK_SLOTS) if n > ids_written else 0):
        rows = slice(number * IDS_CHUNK_SLOTS, (number + 1) * IDS_CHUNK_SLOTS)
        chunks[f"ids/0/{number}"] = "\n".join(ids[rows]).encode()
    return chunks


def _cut(array: NDArray[Any], rows: slice, column: int, columns: int) -> NDArray[Any]:
    return array[rows] if columns == 1 else array[rows, ..., column]


def records(chunks: Chunks, manifest: Manifest) -> list[tuple[bytes, bytes]]:
    """Return keys and values of a snapshot's records, the manifest last."""
    compress = zstandard.ZstdCompressor(level=1).compress
    found = [(key.encode(), compress(chunk)) for key, chunk in chunks.items()]
    packed = msgspec.msgpack.encode(manifest)
    return [*found, (MANIFEST, zlib.crc32(packed).to_bytes(4, "big") + packed)]


def checksums(chunks: Chunks) -> dict[str, int]:
    """Return the CRC-32 of each chunk."""
    return {key: zlib.crc32(chunk) for key, chunk in chunks.items()}


def manifest_in(newest: Mapping[bytes, bytes]) -> Manifest | None:
    """Return the manifest among the newest records by key, None where there is no snapshot."""
    value = newest.get(MANIFEST)
    if value is None:
        return None
    if zlib.crc32(value[4:]).to_bytes(4, "big") != value[:4]:
        raise SnapshotRefused("its manifest is damaged")
    try:
        return msgspec.msgpack.decode(value[4:], type=Manifest)
    except msgspec.DecodeError as error:
        raise SnapshotRefused(f"its manifest can't be read ({error})") from error


def check(manifest: Manifest, *, feature_code: str) -> None:
    """Raise `SnapshotRefused` if the state was not made by this code."""
    if manifest.schema != SCHEMA:
        raise SnapshotRefused(f"it has schema {manifest.schema}, this worker reads {SCHEMA}")
    if manifest.feature_code != feature_code:
        raise SnapshotRefused(
            f"it was made by another feature code ({manifest.feature_code[:8]}, this worker's is {feature_code[:8]})"
        )


def chunks_in(newest: Mapping[bytes, bytes], manifest: Manifest) -> Chunks:
    """Return the chunks that the manifest names; `SnapshotRefused` for one that is missing or not the one it means."""
    chunks: Chunks = {}
    decompress = zstandard.ZstdDecompressor().decompress
    for key, crc in manifest.crc.items():
        value = newest.get(key.encode())
        if value is None:
            raise SnapshotRefused(f"its chunk {key} is missing")
        try:
            chunk = decompress(value, max_output_size=CHUNK_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise SnapshotRefused(f"its chunk {key} is damaged ({error})") from error
        if zlib.crc32(chunk) != crc:
            raise SnapshotRefused(f"its chunk {key} is not the one that the manifest means")
        chunks[key] = chunk
    return chunks


def ids_in(chunks: Chunks) -> list[str]:
    """Return the stream ids by slot."""
    parts = sorted((int(key.rpartition("/")[2]), chunk) for key, chunk in chunks.items() if key.startswith("ids/"))
    return [stream_id for _, chunk in parts for stream_id in chunk.decode().split("\n")]


def put(parts: Iterable[Part], chunks: Chunks) -> None:
    """Write the chunks of these parts back into their arrays, which are empty and have room; all is clean then."""
    by_name = {part.name: part for part in parts}
    for key, chunk in chunks.items():
        name, column, number = key.rsplit("/", 2)
        if name in by_name:
            _put(by_name[name], int(column), int(number) * CHUNK_SLOTS, chunk)
    for part in by_name.values():
        part.dirty[:] = 0


def _put(part: Part, column: int, first: int, chunk: bytes) -> None:
    columns = len(part.dirty)
    row_bytes = sum(array[0].nbytes // columns for array in part.arrays)
    # A chunk is as long as there were streams when it was written; those that came later have nothing in it.
    rows = slice(first, first + len(chunk) // row_bytes)
    at = 0
    for array in part.arrays:
        target = _cut(array, rows, column, columns)
        size = target.size * target.itemsize
        target[...] = np.frombuffer(chunk[at : at + size], array.dtype).reshape(target.shape)
        at += size
