"""`linkcast topics`: the declared topics of a cluster."""

import asyncio
import sys

import click

from infra.options import json_option, kafka_options
from streams.kafka import KafkaSettings
from streams.topics import PARTITIONS


@click.group()
def command() -> None:
    """The declared topics: make and check them, or list them."""


@command.command()
@click.option(
    "--partitions",
    type=click.IntRange(1),
    default=PARTITIONS,
    show_default=True,
    help="Of metrics and the topics that follow it.",
)
@click.option("--replication", type=click.IntRange(1), help="Copies; the number of brokers, at most 3, unless given.")
@click.option(
    "--msk-serverless",
    is_flag=True,
    help="Declare what MSK Serverless takes: fewer settings, records of at most 8 MiB, three copies.",
)
@kafka_options
@json_option
def apply(
    partitions: int,
    replication: int | None,
    msk_serverless: bool,
    kafka: KafkaSettings,
    prefix: str,
    as_json: bool,
) -> None:
    """Make the topics that are missing; say where the others differ from their declaration, and change nothing there.

    Waits for the cluster if it is away. Prints one difference a line, and on stderr the commands of Kafka's own tools
    that mend them; exits with 1 if there are any.

    \b
        linkcast topics apply --partitions 8
    """
    import msgspec

    from infra.topic_steps import steps
    from infra.topics import apply_topics, for_msk_serverless
    from streams.topics import TOPICS

    declared = for_msk_serverless() if msk_serverless else TOPICS
    copies = replication or (3 if msk_serverless else None)
    applied = asyncio.run(apply_topics(kafka, prefix, partitions=partitions, replication=copies, declared=declared))
    told = steps(applied.differences, kafka, prefix, msk_serverless=msk_serverless)
    if as_json:
        print(msgspec.json.encode({**msgspec.to_builtins(applied), "steps": told}).decode())
    else:
        for topic in applied.created:
            print(f"made {topic}", file=sys.stderr)
        for difference in applied.differences:
            print(difference)
        if told:
            print(
                "nothing that is there was changed. To mend it, where Kafka's tools are:",
                *told,
                sep="\n",
                file=sys.stderr,
            )
    sys.exit(bool(applied.differences))


@command.command("list")
@kafka_options
@json_option
def list_(kafka: KafkaSettings, prefix: str, as_json: bool) -> None:
    """List the declared topics that the cluster has: partitions, copies, settings.

    \b
        linkcast topics list --json | jq -r '.[].topic'
    """
    import msgspec

    from infra.topics import list_topics

    found = asyncio.run(list_topics(kafka, prefix))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    if not found:
        print(f"none with the prefix {prefix!r}: 'linkcast topics apply' makes them", file=sys.stderr)
    for topic in found:
        settings = " ".join(f"{key}={value}" for key, value in sorted(topic.config.items()))
        print(f"{topic.topic}  partitions={topic.partitions} replication={topic.replication} {settings}")
