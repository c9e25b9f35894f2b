"""Where records go that the function will not see again: a Kafka topic, or a function of one's own."""

import abc
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

from lambda_adapter.event_source.delivery import GivenUp
from lambda_adapter.event_source.options import TopicMissing

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

ERROR_CHARACTERS_MAX = 2_000


class OnFailure(abc.ABC):
    """A destination; what it raises makes the event source try it again, and go on only when it took the records."""

    async def __aenter__(self) -> Self:
        """Get ready."""
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027  # most have nothing to let go
        """Let go."""

    @abc.abstractmethod
    async def take(self, given_up: GivenUp) -> None:
        """Keep the records; return once they are safe."""


class FailureTopic(OnFailure):
    """A Kafka topic on the same cluster, as AWS' `kafka://topic`.

    Each record keeps its key, value and headers; what happened stands in one more header, `lambda-failure`, as JSON.
    (AWS writes "failure metadata" and does not document its form.)

    Parameters
    ----------
    client_arguments
        What an aiokafka client takes.
    """

    def __init__(self, client_arguments: dict[str, Any], topic: str) -> None:
        self.topic = topic
        self._client_arguments = client_arguments
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises `TopicMissing` now, and not when the first record is given up."""
        from aiokafka import AIOKafkaProducer

        self._producer = AIOKafkaProducer(
            **self._client_arguments, acks="all", enable_idempotence=True, max_request_size=16 << 20
        )
        await self._producer.start()
        if self.topic not in (await self._producer.client.fetch_all_metadata()).topics():
            await self._producer.stop()
            raise TopicMissing(f"no topic {self.topic} for what is given up: make it first")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def take(self, given_up: GivenUp) -> None:
        """Write the records, and wait until all replicas have them."""
        assert self._producer is not None, "take is called between enter and exit"
        sent = [
            await self._producer.send(
                self.topic,
                record.value,
                key=record.key,
                headers=[*record.headers, ("lambda-failure", json.dumps(metadata(given_up, record.offset)).encode())],
            )
            for record in given_up.records
        ]
        for acknowledged in sent:
            await acknowledged


class Calls(OnFailure):
    """A callable, plain or async, as a destination."""

    def __init__(self, take: Callable[[GivenUp], Awaitable[None] | None]) -> None:
        self._take = take

    async def take(self, given_up: GivenUp) -> None:
        """Call it."""
        waited = self._take(given_up)
        if inspect.isawaitable(waited):
            await waited


def metadata(given_up: GivenUp, offset: int) -> dict[str, Any]:
    """Return what happened to one of the records given up."""
    return {
        "condition": given_up.condition,
        "topic": given_up.partition.topic,
        "partition": given_up.partition.number,
        "offset": offset,
        "approximateInvokeCount": given_up.attempts,
        "batchStartOffset": given_up.records[0].offset,
        "batchEndOffset": given_up.records[-1].offset,
        "batchSize": len(given_up.records),
        "error": given_up.error[:ERROR_CHARACTERS_MAX],
        "timestamp": time.time_ns() // 1_000_000,
    }
