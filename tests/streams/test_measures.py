"""A worker speaks of the partitions that it has."""

from unittest.mock import AsyncMock

from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from streams.group.task import Task

GAUGES = ("linkcast_lag_records", "linkcast_streams", "linkcast_rebuilding_records")
PARTITION = 4_711  # no other test has it


def taken() -> Task:
    return Task(TopicPartition("metrics", PARTITION), None, AsyncMock(), AsyncMock(), "")


def said() -> list[bool]:
    return [REGISTRY.get_sample_value(name, {"partition": str(PARTITION)}) is not None for name in GAUGES]


async def test_nothing_is_said_of_a_partition_that_was_let_go() -> None:
    task = taken()
    assert all(said())

    await task.close()

    assert not any(said())


async def test_a_partition_retaken_before_it_was_let_go_keeps_its_gauges() -> None:
    before = taken()
    after = taken()

    await before.close()
    assert all(said())

    await after.close()
    assert not any(said())
