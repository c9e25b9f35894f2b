"""What a worker is in its consumer group: the consumer's settings, and who may be in one group with whom."""

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from streams.contract import LinkcastError
from streams.group.raw_records import AS_ARRAYS
from streams.kafka import KafkaSettings

SESSION_TIMEOUT_MS = 10_000
"""After a worker is killed, its partitions wait this long for another; a static member takes its own back at once."""
REBALANCE_TIMEOUT_MS = 30_000
"""How long a rebalance waits for a member that hands its partitions over, which takes 20 s at most."""
FETCH_BYTES_MIN, FETCH_WAIT_MS = 8 << 10, 10
"""The broker answers a fetch once there are some forty events, or after so long. A turn of two partitions costs some
2 ms, however few its events: the more share one, the less each costs (docs/decisions/0012-small-turns.md)."""
HEARTBEAT_MS = 500
"""A member hears of a rebalance with its next heartbeat, and the partitions of the others wait for the last to hear."""


class GroupRefused(LinkcastError):
    """The members of the group compute something else than this worker."""


def group_consumer(kafka: KafkaSettings, *, group: str, computes: str, instance: str | None) -> AIOKafkaConsumer:
    """Return the consumer of a member of `group`; `instance` is its name as a static member (KIP-345).

    `computes` is a fingerprint of what makes the outputs. It names the only way to share partitions out that this
    member knows, so that the broker itself refuses who would hand the group's windows to other code: that raises
    `InconsistentGroupProtocolError`, of which `refused` makes the error that people read.
    """
    assignor = type("AmongEquals", (RoundRobinPartitionAssignor,), {"name": f"linkcast-{computes[:16]}"})
    arguments: dict[str, Any] = kafka.client_arguments()
    return AIOKafkaConsumer(
        group_id=group,
        group_instance_id=instance,
        partition_assignment_strategy=(assignor,),
        enable_auto_commit=False,
        auto_offset_reset="none",  # positions are ours to choose: a jump over what retention passed is never silent
        isolation_level="read_committed",
        value_deserializer=AS_ARRAYS,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
        metadata_max_age_ms=30_000,
        max_partition_fetch_bytes=4 << 20,
        fetch_min_bytes=FETCH_BYTES_MIN,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        **arguments,
    )


def refused(group: str) -> GroupRefused:
    """Return the error of a worker that the broker did not let in."""
    return GroupRefused(
        f"group {group}: its members run other code, other --rules or another --time-zone than this worker. "
        "Stop them all before you start this one."
    )
