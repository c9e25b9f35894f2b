"""An event source mapping on this machine: a member of a Kafka consumer group that invokes a function with batches.

Offsets are committed behind what was settled or given up, never before. A failure of Kafka ends the session, and the
next one starts from what was committed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from lambda_adapter.event_source.counters import Counters
from lambda_adapter.event_source.deliverer import Backoff, Deliverer
from lambda_adapter.event_source.event import Origin
from lambda_adapter.event_source.function import Function, Handler, InProcess
from lambda_adapter.event_source.on_failure import FailureTopic, OnFailure
from lambda_adapter.event_source.options import Options, OptionsRefused, TopicMissing
from lambda_adapter.event_source.session import Session

STOP_S = 5.0
REBALANCE_S_MIN = 10.0

log = logging.getLogger(__name__)


class Kafka(Protocol):
    """A cluster, as aiokafka's clients are told of it."""

    def client_arguments(self) -> dict[str, Any]:
        """Return `bootstrap_servers` and the security arguments of a client."""


class EventSource:
    """Reads a topic and invokes a function with its records, as Lambda's event source mapping does.

    Parameters
    ----------
    invoke
        A handler, `handler(event, context)`, which runs in this process; or a `Function`, such as `runtime.Runtime`.
    options
        The event source mapping, by AWS' names.
    on_failure
        What keeps the records given up. Without it they are discarded, as in AWS, and counted.
    concurrency
        Invocations at once at most; a partition is in one of them at a time. A handler in this process is then called
        by several threads.
    backoff
        The pauses between attempts, and between sessions that Kafka ended.
    origin
        What events say of where they come from: the cluster's bootstrap addresses unless given.
    """

    def __init__(
        self, kafka: Kafka, topic: str, group: str, invoke: Handler | Function, options: Options | None = None, *,
        on_failure: OnFailure | None = None, concurrency: int = 1, backoff: Backoff | None = None,
        origin: Origin | None = None,
    ) -> None:  # fmt: skip
        if isinstance(on_failure, FailureTopic) and on_failure.topic == topic:
            raise OptionsRefused(f"OnFailure kafka://{topic}: it is the source topic, its failures would never end")
        self._kafka, self._topic, self._group = kafka, topic, group
        self._function = invoke if isinstance(invoke, Function) else InProcess(invoke)
        self._options, self._on_failure = options or Options(), on_failure
        self._concurrency, self._backoff = concurrency, backoff or Backoff()
        self._origin = origin or Origin(bootstrap_servers=str(kafka.client_arguments()["bootstrap_servers"]))
        self.counters = Counters()

    async def run(self, stop: asyncio.Event, *, is_once: bool = False) -> None:
        """Work until `stop` is set, or until what the topic holds now is over where `is_once`; then commit and leave.

        Raises `TopicMissing`, and whatever the function's or the destination's own start raises.
        """
        failures = 0
        async with self._function, self._on_failure or contextlib.nullcontext():
            while not stop.is_set():
                began_at = time.monotonic()
                try:
                    await self._session(stop, is_once=is_once)
                    break
                except KafkaError as error:
                    failures = 1 if time.monotonic() - began_at > 2 * self._backoff.s_max else failures + 1
                    pause_s = max(0.1, self._backoff.after(failures))
                    self.counters.restarts += 1
                    log.warning("Kafka failed (%r): going on from the committed offsets in %g s", error, pause_s)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), pause_s)

    async def _session(self, stop: asyncio.Event, *, is_once: bool) -> None:
        deliverer = Deliverer(
            self._function, self._options, self._origin, self._on_failure, self.counters,
            concurrency=self._concurrency, backoff=self._backoff,
        )  # fmt: skip
        async with self._consuming() as consumer:
            session = Session(
                consumer, self._options, deliverer, self.counters, overhead_bytes=self._origin.overhead_bytes(())
            )
            await session.run(self._topic, stop, is_once=is_once)

    @contextlib.asynccontextmanager
    async def _consuming(self) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **self._kafka.client_arguments(),
            group_id=self._group,
            enable_auto_commit=False,
            # Only where retention has passed a committed offset: a group without one is placed by the session.
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            # The fetching pauses while the buffers are full, for as long as a partition is stuck: no reason to leave.
            max_poll_interval_ms=2**31 - 1,
            # A rebalance waits for the invocations under way.
            rebalance_timeout_ms=int(1000 * max(REBALANCE_S_MIN, self._function.timeout_s + STOP_S)),
            fetch_max_wait_ms=100,
            metadata_max_age_ms=30_000,
        )
        try:
            await consumer.start()
            if self._topic not in await consumer.topics():
                raise TopicMissing(f"no topic {self._topic} at {self._origin.bootstrap_servers}: make it first")
            yield consumer
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(consumer.stop(), STOP_S)
