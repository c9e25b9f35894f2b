"""Connections of the worker's event loop, as Kafka's client uses them."""

import asyncio

import pytest
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from infra.event_loop import Loop


@pytest.mark.kafka
def test_a_request_on_a_connection_that_has_just_ended_is_a_failure_of_kafkas(kafka) -> None:
    host, port = kafka.bootstrap.split(":")

    async def ask_at_the_end() -> None:
        connection = await create_conn(host, int(port))
        assert (await connection.send(MetadataRequest([]))).brokers
        connection._writer.transport.abort()
        await asyncio.sleep(0)  # the transport has ended, and the client has not heard of it
        assert connection._writer
        with pytest.raises(KafkaConnectionError, match="handler is closed"):
            await connection.send(MetadataRequest([]))

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(ask_at_the_end())
