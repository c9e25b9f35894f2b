"""Metric events onto topic `metrics`: idempotent, keyed by node, bounded, and never silent about a loss."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from streams.contract import LinkcastError, MetricEvent, node_of
from streams.kafka import KafkaSettings, await_broker, stop_producer
from streams.wire.events import flaw, parse

RECORD_BYTES_MAX = 512 << 10
"""A larger sweep is split: half of what the worker reads, and of what aiokafka takes as one record."""
ARROW_EVENTS_MAX = 2_000
"""Events of one Arrow record: at most 280 bytes each, with an id of 200."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(MetricEvent).decode


class DeliveryFailed(LinkcastError):
    """Kafka refused a record, or acknowledged nothing for too long."""


class TopicMissing(LinkcastError):
    """The cluster has no such topic."""


class MetricsProducer:
    """Publishes metric events, in order per node, as an async context manager.

    Sending returns when the record is queued, and waits while `unacknowledged_max` records are: memory stays bounded
    when Kafka is slower than the source. What could not be delivered is raised by the next send, by `flush` and on
    leaving the context; the producer is of no more use then, since a gap in an idempotent producer's sequence makes
    the broker refuse all that follows on that partition.

    Parameters
    ----------
    unacknowledged_max
        Records on their way at once. More is faster over a slow network and loses more with the process.
    delivery_seconds
        How long to wait for any acknowledgement before giving up: aiokafka itself retries for ever.

    Attributes
    ----------
    acknowledged, failed
        Events that Kafka has, and events that it may not have.

    Examples
    --------
    A collector's loop::

        async with MetricsProducer(kafka, prefix="linkcast.") as producer:
            async for events in sweeps_of_one_node:
                await producer.send_sweep(events)
    """

    def __init__(
        self, kafka: KafkaSettings, *, prefix: str, unacknowledged_max: int = 1_000, delivery_seconds: float = 120.0
    ) -> None:
        self._kafka = kafka
        self._topic = prefix + "metrics"
        self._delivery_seconds = delivery_seconds
        self._room = asyncio.Semaphore(unacknowledged_max)
        self._pending: dict[asyncio.Future[Any], int] = {}  # to the events of each record on its way
        self._failure: str | None = None
        self.acknowledged = 0
        self.failed = 0

    async def __aenter__(self) -> Self:
        """Wait for the broker, saying so, and connect. Raises `TopicMissing`."""
        await await_broker(self._kafka)
        self._producer = AIOKafkaProducer(
            **self._kafka.client_arguments(),
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_batch_size=RECORD_BYTES_MAX,
        )
        try:
            await self._producer.start()
            # Else the first send would ask for the topic for 40 s, and a lenient broker make one with its defaults.
            if self._topic not in (await self._producer.client.fetch_all_metadata()).topics():
                raise TopicMissing(f"no topic {self._topic} at {self._kafka.bootstrap}: run 'linkcast topics apply'")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush, then stop. An exception of the body is not hidden by a failed delivery, which `failed` counts."""
        try:
            await self.flush()
        except DeliveryFailed:
            if error is None:
                raise
        finally:
            await self._stop()

    async def send(self, event: MetricEvent) -> None:
        """Queue one event. Raises `ValueError` with the field that the contract refuses, and `DeliveryFailed`."""
        await self.send_encoded(node_of(event.stream_id), _checked_json(event), events=1)

    async def send_sweep(self, events: Sequence[MetricEvent], *, as_arrow: bool = False) -> None:
        """Queue events of one node, as one record unless it were above 512 KiB. Raises as `send` does.

        `as_arrow` needs pyarrow and has no place for `extra`, which is a `ValueError`. JSON costs a worker less to read
        (`linkcast bench decode`).
        """
        if not events:
            raise ValueError("an empty sweep: there is nothing to send")
        node = node_of(events[0].stream_id)
        for event in events:
            if node_of(event.stream_id) != node:
                raise ValueError(f"a sweep of two nodes, {node} and {node_of(event.stream_id)}: send one sweep a node")
        checked = [_checked_json(event) for event in events]
        if as_arrow:
            from streams.wire import arrow_sweep  # an agent that sends JSON needs no pyarrow

            for part in _in_arrow_records(events):
                await self.send_encoded(
                    node, arrow_sweep.encode(part), events=len(part), headers=[arrow_sweep.CONTENT_TYPE]
                )
            return
        for value, count in sweep_records(checked):
            await self.send_encoded(node, value, events=count)

    async def send_encoded(
        self, node: str, value: bytes, *, events: int, headers: Sequence[tuple[str, bytes]] | None = None
    ) -> None:
        """Queue a record that is known to be good and holds `events` events, all of `node`."""
        await self._await_room()
        try:
            sent = await self._queue(node, value, headers)
        except BaseException as error:
            self._room.release()
            if not isinstance(error, KafkaError | TimeoutError):
                raise
            self._fail(node, events, error)
            raise DeliveryFailed(self._failure) from error
        self._pending[sent] = events
        sent.add_done_callback(partial(self._settle, node))

    async def flush(self) -> None:
        """Return when every queued record is acknowledged; raises `DeliveryFailed` if one was not."""
        while self._pending and self._failure is None:
            # Failed futures end the wait too, and `_settle` has noted why: aiokafka's own flush would hide them.
            done, _ = await asyncio.wait(
                self._pending, timeout=self._delivery_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self._give_up()
        self._raise_failure()

    async def _await_room(self) -> None:
        self._raise_failure()
        try:
            async with asyncio.timeout(self._delivery_seconds):
                await self._room.acquire()
        except TimeoutError:
            self._give_up()
        self._raise_failure()

    async def _queue(self, node: str, value: bytes, headers: Sequence[tuple[str, bytes]] | None) -> asyncio.Future[Any]:
        async with asyncio.timeout(self._delivery_seconds):
            while True:
                try:
                    sent: asyncio.Future[Any] = await self._producer.send(
                        self._topic, value, key=node.encode(), headers=headers
                    )
                except KafkaTimeoutError:
                    continue  # aiokafka found no place in the partition's batch for 40 s; the record is still ours
                return sent

    def _settle(self, node: str, sent: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
        events = self._pending.pop(sent, None)
        if events is None:
            return  # given up before
        self._room.release()
        if error is None:
            self.acknowledged += events
        else:
            self._fail(node, events, error)

    def _fail(self, node: str, events: int, error: BaseException) -> None:
        self.failed += events
        if self._failure is None:  # what follows the first is its consequence
            self._failure = (
                f"{self._topic} at {self._kafka.bootstrap} did not take a record of node {node} ({events} events): "
                f"{error or type(error).__name__}. Run 'linkcast topics apply', then send again from there."
            )

    def _give_up(self) -> None:
        self.failed += sum(self._pending.values())
        self._failure = (
            f"{self._kafka.bootstrap} has acknowledged nothing for {self._delivery_seconds:g} s, {len(self._pending)} "
            f"records ({sum(self._pending.values())} events) may be lost: start the broker, then send them again."
        )
        self._pending.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise DeliveryFailed(self._failure)

    async def _stop(self) -> None:
        await stop_producer(self._producer)
        self.failed += sum(self._pending.values())
        self._pending.clear()


def _checked_json(event: MetricEvent) -> bytes:
    """Return an event's JSON, the same bytes for the same event; raises `ValueError` for what the contract refuses.

    A struct checks nothing when it is made, and JSON has no NaN: msgspec writes null. So the bytes are read back, and
    what the reader would get is compared with what was meant.
    """
    value = _encode(event)
    try:
        read_back = _decode(value)
    except (ValueError, RecursionError):
        raise ValueError(f"event of {event.stream_id!r} is refused: {parse(value)}") from None
    if read_back != event:
        lost = [name for name in event.__struct_fields__ if getattr(event, name) != getattr(read_back, name)]
        raise ValueError(f"event of {event.stream_id!r}: NaN or infinity in {', '.join(lost)}; None says missing")
    if refusal := flaw(event):
        raise ValueError(f"event of {event.stream_id!r} is refused: {refusal}")
    if len(value) > RECORD_BYTES_MAX:
        raise ValueError(
            f"event of {event.stream_id!r} has {len(value)} bytes, at most {RECORD_BYTES_MAX}: cut `extra`"
        )
    return value


def sweep_records(events: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Join the JSON of events of one node into records below 512 KiB, each with its number of events."""
    start, size = 0, 0
    for i, event in enumerate(events):
        if size + len(event) > RECORD_BYTES_MAX and i > start:
            yield _array(events[start:i]), i - start
            start, size = i, 0
        size += len(event) + 1
    yield _array(events[start:]), len(events) - start


def _in_arrow_records(events: Sequence[MetricEvent]) -> list[Sequence[MetricEvent]]:
    if with_extra := [event.stream_id for event in events if event.extra is not None]:
        raise ValueError(f"event of {with_extra[0]!r} has `extra`, which an Arrow sweep has no column for: send JSON")
    return [events[first : first + ARROW_EVENTS_MAX] for first in range(0, len(events), ARROW_EVENTS_MAX)]


def _array(events: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"
