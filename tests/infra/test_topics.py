"""The declared topics are made once, checked for ever, and never changed behind anybody's back."""

import json

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from click.testing import CliRunner

from infra.command import main
from infra.topics import (
    MSK_SERVERLESS_MESSAGE_BYTES_MAX,
    MSK_SERVERLESS_SETTINGS,
    Applied,
    Difference,
    TopicsFailed,
    apply_topics,
    for_msk_serverless,
    list_topics,
)
from streams.topics import DEAD_KEY_BYTES_MAX, DEAD_VALUE_BYTES_MAX, MIB, TOPICS

NAMES = [
    "metrics",
    "metrics.dead",
    "features",
    "predictions",
    "predictions.dead",
    "outcomes",
    "labels",
    "drift",
    "scorecards",
    "retrain",
    "models",
    "rollout",
    "state",
]
ODD = {"retention.ms": "1000", "cleanup.policy": "compact", "max.message.bytes": "1000000"}
CO_PARTITIONED = {"metrics", "metrics.dead", "features", "predictions", "outcomes", "labels", "state"}


def test_the_topics_of_the_design_are_declared_and_the_adapters():
    assert [topic.name for topic in TOPICS] == NAMES
    assert {topic.name for topic in TOPICS if topic.follows_metrics} == CO_PARTITIONED
    assert {topic.name for topic in TOPICS if topic.config["cleanup.policy"] == "compact"} == {
        "labels",
        "models",
        "rollout",
        "state",
    }


async def test_applying_twice_makes_all_once_and_finds_nothing_to_say(kafka, prefix):
    first = await apply_topics(kafka, prefix, partitions=3)
    second = await apply_topics(kafka, prefix, partitions=3)

    assert first == Applied(created=[prefix + name for name in NAMES], differences=[])
    assert second == Applied(created=[], differences=[])
    found = await list_topics(kafka, prefix)
    assert {topic.topic: topic.partitions for topic in found} == {
        prefix + name: 3 if name in CO_PARTITIONED else 1 for name in NAMES
    }


async def test_a_difference_is_told_and_left_as_it_is(kafka, prefix):
    odd = NewTopic(prefix + "metrics", 5, 1, topic_configs=ODD)
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    await admin.create_topics([odd])
    await admin.close()

    for created in (len(NAMES) - 1, 0):
        applied = await apply_topics(kafka, prefix, partitions=2)
        assert len(applied.created) == created
        assert [str(difference) for difference in applied.differences] == [
            f"{prefix}metrics: partitions is 5, declared 2",
            f"{prefix}metrics: cleanup.policy is compact, declared delete",
            f"{prefix}metrics: retention.ms is 1000, declared 604800000",
            f"{prefix}metrics: message.timestamp.type is CreateTime, declared LogAppendTime",
            f"{prefix}metrics: max.message.bytes is 1000000, declared 12582912",
        ]


async def test_a_cluster_that_refuses_says_so_by_topic(kafka, prefix):
    with pytest.raises(TopicsFailed, match=f"{prefix}metrics: Kafka won't make it: .*[Rr]eplication"):
        await apply_topics(kafka, prefix, replication=3)


async def test_a_record_of_12_mib_reaches_metrics_and_is_stamped_by_the_broker(kafka, topics, consume_all):
    nearly = b"x" * (12 * MIB - 200)
    async with AIOKafkaProducer(**kafka.client_arguments(), max_request_size=14 * MIB) as producer:
        await producer.send_and_wait(topics + "metrics", nearly, timestamp_ms=1)
        await producer.send_and_wait(topics + "metrics.dead", nearly, headers=[("detail", b"y" * 100_000)])

    (record,) = await consume_all(topics + "metrics")
    assert record.value == nearly
    assert record.timestamp > 1_700_000_000_000
    assert len(await consume_all(topics + "metrics.dead")) == 1


def test_the_command_exits_with_1_and_a_line_for_each_difference(kafka, prefix):
    def run(*arguments):
        return CliRunner().invoke(main, ["topics", *arguments, "--bootstrap", kafka.bootstrap, "--prefix", prefix])

    none = run("list")
    assert (none.exit_code, none.stdout) == (0, "")
    assert f"none with the prefix '{prefix}': 'linkcast topics apply' makes them" in none.stderr
    made = run("apply", "--partitions", "2")
    assert (made.exit_code, made.stdout) == (0, "")
    assert f"made {prefix}metrics\n" in made.stderr
    differing = run("apply", "--partitions", "3")
    assert differing.exit_code == 1
    assert differing.stdout.splitlines()[0] == f"{prefix}metrics: partitions is 2, declared 3"
    as_json = run("apply", "--partitions", "3", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["differences"][0] == {
        "topic": f"{prefix}metrics",
        "setting": "partitions",
        "declared": "3",
        "found": "2",
    }
    assert [topic["topic"] for topic in json.loads(run("list", "--json").stdout)] == [prefix + name for name in NAMES]


def test_a_difference_reads_as_a_sentence():
    assert str(Difference(topic="t", setting="retention.ms", declared="1", found="unset")) == (
        "t: retention.ms is unset, declared 1"
    )


def test_msk_serverless_is_asked_for_nothing_that_it_refuses():
    declared = for_msk_serverless()

    assert [topic.name for topic in declared] == [topic.name for topic in TOPICS]
    for topic in declared:
        assert topic.config.keys() <= MSK_SERVERLESS_SETTINGS
        assert int(topic.config.get("max.message.bytes", 0)) <= MSK_SERVERLESS_MESSAGE_BYTES_MAX


def test_on_msk_serverless_a_dead_letter_keeps_its_room_for_headers():
    largest = {topic.name: int(topic.config.get("max.message.bytes", 0)) for topic in for_msk_serverless()}

    assert largest["metrics.dead"] - largest["metrics"] == MIB
    assert largest["metrics.dead"] - DEAD_VALUE_BYTES_MAX - DEAD_KEY_BYTES_MAX == MIB // 2
