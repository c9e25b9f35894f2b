"""Making the declared topics, and saying where the ones that are there differ. Nothing is ever changed silently."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, await_broker
from streams.topics import MIB, PARTITIONS, TOPICS, Topic

VISIBLE_SECONDS_MAX = 30.0
MSK_SERVERLESS_SETTINGS = frozenset(
    (
        "cleanup.policy",
        "compression.type",
        "max.message.bytes",
        "message.timestamp.type",
        "retention.bytes",
        "retention.ms",
    )
)
"""What a topic of MSK Serverless can be given (MSK guide, "Configuration properties"); it refuses the rest."""
MSK_SERVERLESS_MESSAGE_BYTES_MAX = 8 * MIB


class TopicsFailed(LinkcastError):
    """The cluster would not make or describe a topic."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A declared topic as the cluster has it."""

    topic: str  # with its prefix
    partitions: int
    replication: int  # of its least replicated partition
    config: dict[str, str]  # the declared settings only


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of one topic that is not as declared."""

    topic: str
    setting: str
    declared: str
    found: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, declared {self.declared}"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply_topics` made, and what it found to differ."""

    created: list[str]
    differences: list[Difference]


async def apply_topics(
    kafka: KafkaSettings,
    prefix: str,
    *,
    partitions: int = PARTITIONS,
    replication: int | None = None,
    declared: Sequence[Topic] = TOPICS,
) -> Applied:
    """Make the declared topics that are missing and compare the others; waits for the broker if it is away.

    `partitions` are those of `metrics` and its followers; `replication` is the brokers' number, at most 3, where it
    is None. Raises `TopicsFailed` if the cluster refuses.
    """
    async with _admin(kafka) as admin:
        copies = replication or min(3, len((await admin.describe_cluster())["brokers"]))
        found = await _found(admin, prefix)
        missing = [topic for topic in declared if prefix + topic.name not in found]
        created = await _create(admin, prefix, missing, partitions, copies) if missing else []
        # The new ones too: another `apply` may have made them, and a cluster's policy may have overruled us.
        found = await _found(admin, prefix) if missing else found
        differences = [
            difference
            for topic in declared
            for difference in compare(topic, found[prefix + topic.name], partitions=partitions, replication=copies)
        ]
        return Applied(created=created, differences=differences)


async def list_topics(kafka: KafkaSettings, prefix: str) -> list[Found]:
    """Return those declared topics that are there, in the declared order."""
    async with _admin(kafka) as admin:
        return list((await _found(admin, prefix)).values())


def compare(topic: Topic, found: Found, *, partitions: int, replication: int) -> list[Difference]:
    """Return where a topic that is there differs from its declaration."""
    declared = {"partitions": str(topic.partitions(partitions)), "replication": str(replication)} | topic.config
    actual = {"partitions": str(found.partitions), "replication": str(found.replication)} | found.config
    return [
        Difference(topic=found.topic, setting=setting, declared=value, found=actual.get(setting, "unset"))
        for setting, value in declared.items()
        if actual.get(setting) != value
    ]


def for_msk_serverless() -> list[Topic]:
    """Return the declared topics as MSK Serverless takes them: fewer settings, and records of 8 MiB at most.

    Every limit above that gives way by as much as the largest has to, so that a dead letter still has room for its
    record and its headers.
    """
    excess = max(int(t.config.get("max.message.bytes", 0)) for t in TOPICS) - MSK_SERVERLESS_MESSAGE_BYTES_MAX
    return [topic._replace(config=dict(_settable(topic.config, excess))) for topic in TOPICS]


def _settable(config: dict[str, str], excess: int) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if name == "max.message.bytes" and int(value) > MSK_SERVERLESS_MESSAGE_BYTES_MAX:
            yield name, str(int(value) - excess)
        elif name in MSK_SERVERLESS_SETTINGS:
            yield name, value


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    await await_broker(kafka)
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        raise TopicsFailed(f"Kafka at {kafka.bootstrap}: {error}. Check that this user may describe topics.") from error
    finally:
        await admin.close()


async def _found(admin: AIOKafkaAdminClient, prefix: str) -> dict[str, Found]:
    there = set(await admin.list_topics())
    names = [prefix + topic.name for topic in TOPICS if prefix + topic.name in there]
    if not names:
        return {}
    described = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics(names)}
    configs = await _configs(admin, names)
    return {
        prefix + topic.name: Found(
            topic=prefix + topic.name,
            partitions=len(described[prefix + topic.name]),
            replication=min((len(p["replicas"]) for p in described[prefix + topic.name]), default=0),
            config={key: value for key, value in configs[prefix + topic.name].items() if key in topic.config},
        )
        for topic in TOPICS
        if prefix + topic.name in names
    }


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for response in responses:
        for code, message, _kind, name, entries in response.resources:
            if code:
                raise TopicsFailed(f"{name}: Kafka won't describe it: {message or for_code(code).__name__}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _create(
    admin: AIOKafkaAdminClient, prefix: str, topics: list[Topic], partitions: int, replication: int
) -> list[str]:
    """Make topics, wait until clients can see them, and return the names of those that nobody else made meanwhile."""
    response = await admin.create_topics(
        [
            NewTopic(prefix + topic.name, topic.partitions(partitions), replication, topic_configs=topic.config)
            for topic in topics
        ]
    )
    for name, code, message in response.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicsFailed(f"{name}: Kafka won't make it: {message or for_code(code).__name__}")
    await _until_visible(admin, [prefix + topic.name for topic in topics])
    made = {name for name, code, _message in response.topic_errors if code == 0}
    return [prefix + topic.name for topic in topics if prefix + topic.name in made]


async def _until_visible(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    # A topic is made before every broker has heard of it: a client that comes at once would find nothing.
    deadline = time.monotonic() + VISIBLE_SECONDS_MAX
    while not all(_has_leaders(topic) for topic in await admin.describe_topics(names)):
        if time.monotonic() > deadline:
            raise TopicsFailed(
                f"topics made but without a leader after {VISIBLE_SECONDS_MAX:g} s: are all brokers well?"
            )
        await asyncio.sleep(0.05)


def _has_leaders(topic: dict[str, Any]) -> bool:
    partitions = topic["partitions"]
    return bool(partitions) and not topic["error_code"] and all(p["leader"] >= 0 for p in partitions)
