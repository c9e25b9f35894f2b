"""The declared topics are made once, checked for ever, and never changed behind anybody's back."""

import asyncio
import json
import shlex

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from infra.command import main
from infra.topic_steps import steps
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
from streams.kafka import KafkaSettings
from streams.topics import DAY_MS, DEAD_KEY_BYTES_MAX, DEAD_VALUE_BYTES_MAX, MIB, TOPICS

NAMES = [
    "metrics",
    "metrics.dead",
    "features",
    "predictions",
    "predictions.dead",
    "outcomes",
    "labels",
    "signals",
    "calls",
    "drift",
    "scorecards",
    "retrain",
    "models",
    "rollout",
    "state",
]
ODD = {"retention.ms": "1000", "cleanup.policy": "compact", "max.message.bytes": "1000000"}
CO_PARTITIONED = {"metrics", "metrics.dead", "features", "predictions", "outcomes", "labels", "calls", "state"}
# As the first installations have them.
OLDER = {
    "predictions.dead": {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
    "outcomes": {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS)},
    "labels": {"cleanup.policy": "compact"},
    "drift": {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS)},
    "scorecards": {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
    "retrain": {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS)},
    "models": {"cleanup.policy": "compact"},
    "rollout": {"cleanup.policy": "compact", "min.compaction.lag.ms": str(90 * DAY_MS)},
}


def test_the_topics_of_the_design_are_declared_and_the_adapters():
    assert [topic.name for topic in TOPICS] == NAMES
    assert {topic.name for topic in TOPICS if topic.follows_metrics} == CO_PARTITIONED
    assert {topic.name for topic in TOPICS if topic.config["cleanup.policy"] == "compact"} == {"models", "state"}
    assert {topic.name for topic in TOPICS if topic.config.get("retention.ms") == "-1"} == {
        "labels",
        "scorecards",
        "rollout",
    }
    assert {topic.config["message.timestamp.type"] for topic in TOPICS} == {"LogAppendTime"}


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
    await _make(kafka, [NewTopic(prefix + "metrics", 5, 1, topic_configs=ODD)])

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


async def test_an_older_installation_is_as_declared_once_its_operator_did_what_was_said(kafka, prefix):
    def apply():
        told = ["topics", "apply", "--partitions", "2", "--bootstrap", kafka.bootstrap, "--prefix", prefix]
        return CliRunner().invoke(main, told)

    declared = [topic._replace(config=OLDER.get(topic.name, topic.config)) for topic in TOPICS]
    older = [topic for topic in declared if topic.name not in ("signals", "calls")]
    await _make(kafka, [NewTopic(prefix + t.name, t.partitions(2), 1, topic_configs=t.config) for t in older])

    differing = await asyncio.to_thread(apply)

    assert differing.exit_code == 1
    assert [line for line in differing.stdout.splitlines() if "labels" in line or "scorecards" in line] == [
        f"{prefix}labels: cleanup.policy is compact, declared delete",
        f"{prefix}labels: retention.ms is 604800000, declared -1",
        f"{prefix}labels: message.timestamp.type is CreateTime, declared LogAppendTime",
        f"{prefix}scorecards: retention.ms is 2592000000, declared -1",
        f"{prefix}scorecards: message.timestamp.type is CreateTime, declared LogAppendTime",
    ]
    made, told = differing.stderr.split("nothing that is there was changed")
    assert made.splitlines() == [f"made {prefix}signals", f"made {prefix}calls"]
    commands = told.splitlines()[1:]
    assert len(commands) == len(OLDER)
    tool = f"kafka-configs --bootstrap-server {kafka.bootstrap} {ALTER}"
    assert f"{tool} {prefix}labels --add-config cleanup.policy=delete,retention.ms=-1,{STAMPED}" in commands
    for command in commands:
        await _obey(kafka, command, prefix)

    clean = await asyncio.to_thread(apply)

    assert (clean.exit_code, clean.stdout, clean.stderr) == (0, "", "")


async def _make(kafka, new):
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    await admin.create_topics(new)
    await admin.close()


async def _obey(kafka, command, prefix):
    """Do what kafka-configs does: starting a JVM for each would take half a minute."""
    tool, _, bootstrap, *flags, name, add, settings = shlex.split(command)
    assert (tool, bootstrap, add) == ("kafka-configs", kafka.bootstrap, "--add-config")
    assert flags == ["--alter", "--entity-type", "topics", "--entity-name"]
    # This request sets all that it doesn't name to the default, kafka-configs leaves it.
    configs = OLDER[name.removeprefix(prefix)] | dict(setting.split("=") for setting in settings.split(","))
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs)])
    await admin.close()


TOOL = "--bootstrap-server k:9092"
ANEW = "Where its records may go, delete it and run 'linkcast topics apply' again:"
ALTER = "--alter --entity-type topics --entity-name"
STAMPED = "message.timestamp.type=LogAppendTime"


@pytest.mark.parametrize(
    ("differing", "told"),
    [
        (
            [("metrics", "partitions", "8", "4"), ("labels", "partitions", "8", "4")],
            ["# l.metrics: with other partitions, streams leave their history: pass --partitions 4"],
        ),
        (
            [("calls", "partitions", "8", "4")],
            [f"kafka-topics {TOOL} --alter --topic l.calls --partitions 8"],
        ),
        (
            [("drift", "partitions", "1", "2")],
            [
                f"# l.drift: Kafka takes no partition away. {ANEW}",
                f"# kafka-topics {TOOL} --delete --topic l.drift",
            ],
        ),
        (
            [("metrics", "replication", "3", "1"), ("labels", "replication", "3", "1")],
            ["# 2 topics have 1 copies: pass --replication 1 to keep it so, or reassign partitions"],
        ),
        (
            [("predictions", "retention.ms", "604800000", "-1")],
            [
                "# l.predictions: this deletes what is older than its retention",
                f"kafka-configs {TOOL} {ALTER} l.predictions --add-config retention.ms=604800000",
            ],
        ),
        (
            [("models", "cleanup.policy", "compact", "delete")],
            [
                "# l.models: this deletes all but the newest record of each key",
                f"kafka-configs {TOOL} {ALTER} l.models --add-config cleanup.policy=compact",
            ],
        ),
    ],
)
def test_each_kind_of_difference_has_its_step_and_what_is_lost_stands_before_it(differing, told):
    differences = [
        Difference(topic=f"l.{topic}", setting=setting, declared=declared, found=found)
        for topic, setting, declared, found in differing
    ]

    assert steps(differences, KafkaSettings(bootstrap="k:9092"), "l.") == told


def test_msk_serverless_gives_a_policy_at_birth_alone_and_its_tools_need_a_login():
    policy = Difference(topic="l.labels", setting="cleanup.policy", declared="delete", found="compact")
    stamp = Difference(topic="l.models", setting="message.timestamp.type", declared="LogAppendTime", found="CreateTime")
    kafka = KafkaSettings(
        bootstrap="k:9092", security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM", region="us-east-1"
    )

    told = steps([policy, stamp], kafka, "l.", msk_serverless=True)

    assert told == [
        f"# l.labels: MSK Serverless takes a cleanup.policy only when it makes a topic. {ANEW}",
        f"# kafka-topics {TOOL} --command-config client.properties --delete --topic l.labels",
        f"kafka-configs {TOOL} --command-config client.properties {ALTER} l.models --add-config {STAMPED}",
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
    assert json.loads(as_json.stdout)["steps"] == differing.stderr.splitlines()[1:] != []
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
