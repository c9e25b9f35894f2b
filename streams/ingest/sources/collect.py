"""Samples of a source to metric events: the readings of ports, their deltas from one sample to the next, the schedule.

`Collector` is the core, without clock; `samples` keeps the schedule. A parser makes `Reading`s of what its source says
and leaves out what it can't read, so that one odd device or file never blinds the others.
"""

import asyncio
import logging
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from streams.contract import METRICS, LinkcastError, MetricEvent, node_of
from streams.ingest.sources.counters import BITS, COUNTERS, INDEX, TRAFFIC
from streams.ingest.sources.devices import (
    FLIT_BYTES,
    NOT_COUNTED_BY_OPA,
    data_bytes_of,
    is_named_as_bond,
    legs_taken_for_granted,
)
from streams.ingest.sources.memory import CounterMemory, Sample
from streams.ingest.sources.metrics import LinkState, metrics
from streams.kafka import KafkaSettings
from streams.wire.events import has_metric

log = logging.getLogger(__name__)

CLASSIC_STUCK = 2**32 - 1
"""A traffic counter at just this value is a classic 32-bit one, stuck at its maximum: a 64-bit one only passes by."""

FLAGS = ("saturated", "reset", "gap", "quarantined")
"""Extras that an event carries only where they aren't 0."""

NODE_BYTES_MAX, PORT_BYTES_MAX = 120, 79  # with the slash 200, what the contract allows


class NothingRead(LinkcastError):
    """A source without a single port that could be read."""


class NotWritable(LinkcastError):
    """A file for the events that can't be opened."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One port, read once: what the source said and nothing it didn't.

    `counters` are raw values by the names of `COUNTERS`, data in units of `data_bytes` (0: the device's own, by its
    name); `bits` are their widths where these aren't those of sysfs. Readings of one port at one moment are one sample:
    the wider counter wins. Where a reading `is_change`, counters that it leaves out are as they were; else they are
    unknown. `unknown` is the name of a counter that linkcast doesn't know, if the source has one.

    `ts` is event time in ms, `monotonic_s` the same moment on a clock without steps (for a file: its own time). `boot`
    is any text that changes when the counters begin anew; a number is the time of the boot in seconds since 1970, which
    a corrected clock moves a little. `rate_gbps` is what the source states; `bond_gbps` what all legs of a bond carry
    together, for the stated rate is that of one. `stated` are metrics that the source says itself, used where counters
    give none; `extra` goes into the event as it is.
    """

    node: str
    port: str
    ts: int
    monotonic_s: float
    counters: Mapping[str, int]
    rate_gbps: float = np.nan
    is_roce: bool = False
    boot: str = ""
    bits: Mapping[str, int] = field(default_factory=dict)
    stated: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    data_bytes: int = 0
    bond_gbps: float = np.nan
    is_change: bool = False
    unknown: str = ""

    @property
    def device(self) -> str:
        """The device of a port `device:port`; other ports have none."""
        return self.port.rpartition(":")[0]

    @property
    def stream_id(self) -> str:
        r"""Node and port as the contract wants them: printable, no slash but the one between them, 200 bytes at most.

        >>> Reading("gpu\n7", "mlx5/0:1", 0, 0.0, {}).stream_id
        'gpu_7/mlx5_0:1'
        """
        return f"{_printable(self.node, NODE_BYTES_MAX)}/{_printable(self.port, PORT_BYTES_MAX)}"


def _printable(text: str, bytes_max: int) -> str:
    clean = "".join(c if c.isprintable() and c != "/" else "_" for c in text) or "_"
    return clean.encode()[:bytes_max].decode(errors="ignore")


class Oddities:
    """What was odd about a source: each place and reason is logged once, however often it is read."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()

    def note(self, where: Path | str, reason: str, example: object = "") -> None:
        """Log `where` and `reason`, with the example at hand, unless that was done before.

        Examples may differ each time and don't count: the log stays as short as the list of places and reasons.
        """
        # Bytes of a path that are no UTF-8 come out escaped.
        place = str(where).encode(errors="surrogateescape").decode(errors="backslashreplace")
        if (place, reason) not in self._noted:
            self._noted.add((place, reason))
            log.warning("%s: %s%s", place, reason, f": {example!a:.60}" if example != "" else "")


class Collector:
    """Readings in, metric events out: remembers the last reading of every counter of every stream.

    A stream's first reading has nothing to compare with; its event has only what the source states and `extra`. Ports
    and counters may come and go: what comes back within 25 h is compared with its last reading, over the real time in
    between.
    """

    def __init__(self, *, period_s: float, odd: Oddities) -> None:
        self._odd = odd
        self._memory = CounterMemory(period_s=period_s)

    def events(self, readings: Iterable[Reading]) -> list[MetricEvent]:
        """Return one event a stream and moment. Readings of one stream are successive samples, in the order given."""
        self._memory.next_sample()
        return [event for batch in _batches(readings) for event in self._batch(batch)]

    def _batch(self, batch: dict[str, Reading]) -> list[MetricEvent]:
        now = list(batch.values())
        sample = _sample(now)
        counted, joint = self._memory.advance(list(batch), sample)
        link = LinkState(
            rate_gbps=np.array([self._rate_gbps(stream, reading) for stream, reading in batch.items()]),
            is_roce=sample.is_roce,
            is_bond=np.array([_is_bond(reading) for reading in now]),
            data_bytes=sample.data_bytes,
        )
        figures = metrics(counted, link, joint)
        rows = zip(*(figure.tolist() for figure in figures.values()), strict=True)
        return [
            self._event(stream, reading, dict(zip(figures, row, strict=True)))
            for (stream, reading), row in zip(batch.items(), rows, strict=True)
        ]

    def _rate_gbps(self, stream: str, reading: Reading) -> float:
        """Return the rate of the whole port, NaN where that can't be known."""
        if not np.isnan(reading.bond_gbps):
            return reading.bond_gbps
        if np.isnan(reading.rate_gbps) or not _is_bond(reading):
            return reading.rate_gbps
        legs = legs_taken_for_granted(reading.device)
        outcome = f"{legs} are taken for granted" if legs else "utilization is left out"
        self._odd.note(stream, f"is a bond, and its rate that of one leg; nothing tells how many it has: {outcome}")
        return reading.rate_gbps * legs if legs else np.nan

    def _event(self, stream: str, reading: Reading, figures: dict[str, float]) -> MetricEvent:
        if figures["quarantined"]:
            self._odd.note(stream, "counted more than its link can carry: those figures are left out")
        # NaN is the one number that differs from itself.
        counted = {name: x for name, x in figures.items() if x == x and not (name in FLAGS and x == 0)}
        known: dict[str, Any] = {**reading.extra, **reading.stated, **counted}
        measured = {name: known.pop(name) for name in METRICS if name in known}
        return MetricEvent(stream_id=stream, ts=reading.ts, extra=known or None, **measured)


def _is_bond(reading: Reading) -> bool:
    return is_named_as_bond(reading.device) or not np.isnan(reading.bond_gbps)


def _batches(readings: Iterable[Reading]) -> list[dict[str, Reading]]:
    """Cut readings into batches that hold each stream once, a stream's own order kept, what is of one moment in one."""
    moments: dict[tuple[str, float], Reading] = {}
    for reading in readings:
        moment = reading.stream_id, reading.monotonic_s
        moments[moment] = _together(moments[moment], reading) if moment in moments else reading
    batches: list[dict[str, Reading]] = []
    seen: dict[str, int] = {}
    for (stream, _), reading in moments.items():
        at = seen[stream] = seen.get(stream, -1) + 1
        if at == len(batches):
            batches.append({})
        batches[at][stream] = reading
    return batches


def _together(one: Reading, other: Reading) -> Reading:
    """Make one sample of two readings of a port at one moment: the wider counter wins, else the later one."""
    taken = {name for name in other.counters if name not in one.counters or _width(other, name) >= _width(one, name)}
    return replace(
        one,
        counters={**one.counters, **{name: other.counters[name] for name in taken}},
        bits={**one.bits, **{name: _width(other, name) for name in taken}},
        rate_gbps=one.rate_gbps if np.isnan(other.rate_gbps) else other.rate_gbps,
        bond_gbps=one.bond_gbps if np.isnan(other.bond_gbps) else other.bond_gbps,
        is_roce=one.is_roce or other.is_roce,
        is_change=one.is_change and other.is_change,
        boot=other.boot or one.boot,
        stated={**one.stated, **other.stated},
        extra={**one.extra, **other.extra},
    )


def _width(reading: Reading, counter: str) -> int:
    return reading.bits.get(counter, COUNTERS[INDEX[counter]].bits)


def _sample(readings: Sequence[Reading]) -> Sample:
    shape = (len(readings), len(COUNTERS))
    values, is_read, bits = np.zeros(shape, np.uint64), np.zeros(shape, np.bool_), np.tile(BITS, (len(readings), 1))
    data_bytes = [reading.data_bytes or data_bytes_of(reading.device) for reading in readings]
    for row, reading in enumerate(readings):
        for name, value in reading.counters.items():
            is_stuck = name in TRAFFIC and value == CLASSIC_STUCK
            if not is_stuck and not (data_bytes[row] == FLIT_BYTES and name in NOT_COUNTED_BY_OPA):
                values[row, INDEX[name]], is_read[row, INDEX[name]] = value, True
        for name, width in reading.bits.items():
            bits[row, INDEX[name]] = width
    return Sample(
        values=values,
        is_read=is_read,
        at_s=np.array([reading.monotonic_s for reading in readings]),
        bits=bits,
        data_bytes=np.array(data_bytes, np.int64),
        is_roce=np.array([reading.is_roce for reading in readings]),
        is_change=np.array([reading.is_change for reading in readings]),
        boots=[reading.boot for reading in readings],
    )


def read_files(
    paths: Iterable[Path], parse: Callable[[bytes, Path, float], list[Reading]], odd: Oddities
) -> list[Reading]:
    """Return the readings of all files in order: `parse(content, path, taken_s)` of each that can be read.

    `taken_s` is the file's modification time, Unix epoch: when nobody wrote it anew, there is no new sample.
    """
    readings = []
    for path in paths:
        try:
            content, taken_s = path.read_bytes(), path.stat().st_mtime
        except OSError as error:
            odd.note(path, error.strerror or str(error))
            continue
        found = parse(content, path, taken_s)
        if not found:
            odd.note(path, "says nothing of any port")
        known = {reading.stream_id for reading in found if reading.counters}
        for reading in found:
            if reading.unknown and reading.stream_id not in known:
                odd.note(path, "no counter's name is known", reading.unknown)
        readings += found
    return readings


async def samples(
    read: Callable[[], list[Reading]], *, every_s: float, count: int | None, stop: asyncio.Event
) -> AsyncIterator[list[Reading]]:
    """Yield `count` samples (for ever where None), the first at once and each `every_s` seconds after it.

    The schedule is absolute: a slow reading delays no later one, and what it overran is left out. Ends early after the
    sample under way when `stop` is set. Reads in a thread, for a device may answer slowly.
    """
    clock = asyncio.get_running_loop().time
    start, taken = clock(), 0
    while True:
        yield await asyncio.to_thread(read)
        taken += 1
        if taken == count:
            return
        next_s = start + every_s * (1 + (clock() - start) // every_s)
        try:
            await asyncio.wait_for(stop.wait(), timeout=next_s - clock())
        except TimeoutError:
            continue
        return


Put = Callable[[list[MetricEvent]], Awaitable[None]]
Sink = AbstractAsyncContextManager[Put]
"""Where events go: opened once, then awaited with the events of each sample."""


@dataclass(slots=True)
class Done:
    """What a collection came to: samples taken, events made, and how many of those have no metric."""

    samples: int = 0
    events: int = 0
    without_metric: int = 0


async def collect(
    read: Callable[[], list[Reading]],
    sink: Sink,
    *,
    every_s: float,
    count: int | None,
    has_base: bool,
    odd: Oddities,
) -> Done:
    """Take samples until `count`, SIGINT or SIGTERM and put their events into `sink`, the sample under way included.

    With `has_base` one sample more is taken first, to compare with, and gives no events. Raises `NothingRead` if the
    first one is empty.
    """
    collector, done = Collector(period_s=every_s, odd=odd), Done()
    takes = count + has_base if count else None
    is_first = True
    async with sink as put:
        # Not before the sink is open: until then there is no sample to finish, and a signal ends the process.
        stop = _stop_on_signal()
        async for readings in samples(read, every_s=every_s, count=takes, stop=stop):
            if is_first and not readings:
                raise NothingRead("no port could be read: the lines above say why; is the path right?")
            events = collector.events(readings)
            if not (is_first and has_base):
                await put(events)
                done.samples += 1
                done.events += len(events)
                done.without_metric += sum(not has_metric(event) for event in events)
            is_first = False
    return done


def _stop_on_signal() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, each once: the second signal ends the process at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def set_once(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, set_once, number)
    return stop


def to_file(path: str) -> Sink:
    """Write events as JSON Lines to a file, `-` is standard output; each sample is there once it was put.

    Raises `NotWritable` at once if the file can't be opened, and later where it takes no more: what is in it then are
    whole samples.
    """
    if path == "-":
        return _to_lines(nullcontext(sys.stdout.buffer), "standard output")
    try:
        return _to_lines(Path(path).open("wb", buffering=0), path)
    except OSError as error:
        raise NotWritable(f"{path}: {error.strerror}: name another file with --out") from error


@asynccontextmanager
async def _to_lines(opening: AbstractContextManager[IO[bytes]], path: str) -> AsyncIterator[Put]:
    with opening as file:

        async def put(events: list[MetricEvent]) -> None:
            try:
                _append(file, b"".join(msgspec.json.encode(event) + b"\n" for event in events))
            except BrokenPipeError:  # whoever reads has had enough
                raise
            except OSError as error:
                raise NotWritable(
                    f"{path}: {error.strerror}. The samples in it are whole; to go on, make room and name another "
                    f"file with --out"
                ) from error

        yield put


def _append(file: IO[bytes], sample: bytes) -> None:
    """Write a sample to the end of a file, or nothing of it."""
    start, rest = file.tell() if file.seekable() else None, memoryview(sample)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        file.flush()
    except OSError:
        with suppress(OSError):  # a device has no size
            file.truncate(start)
        raise


@asynccontextmanager
async def to_kafka(kafka: KafkaSettings, prefix: str) -> AsyncIterator[Put]:
    """Publish events to `metrics`, a sweep a node; those without a metric stay here, for they would be dead letters."""
    from streams.ingest.producer import MetricsProducer

    async with MetricsProducer(kafka, prefix=prefix) as producer:

        async def put(events: list[MetricEvent]) -> None:
            sweeps: dict[str, list[MetricEvent]] = defaultdict(list)
            for event in filter(has_metric, events):
                sweeps[node_of(event.stream_id)].append(event)
            for sweep in sweeps.values():
                await producer.send_sweep(sweep)

        yield put
