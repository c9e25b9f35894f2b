"""What an operator does where a topic differs from its declaration: lines for a shell, commands of Kafka's own tools.

What would lose records is told before it, and what deletes a topic is a comment: nobody pastes it unread.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from infra.topics import Difference
from streams.kafka import KafkaSettings


def steps(
    differences: Sequence[Difference], kafka: KafkaSettings, prefix: str, *, msk_serverless: bool = False
) -> list[str]:
    """Return the lines that bring all topics to their declaration; `differences` come topic by topic.

    >>> difference = Difference(topic="l.drift", setting="retention.ms", declared="-1", found="1000")
    >>> [line] = steps([difference], KafkaSettings(bootstrap="kafka-1:9092"), "l.")
    >>> line.partition(" --alter ")[2]
    '--entity-type topics --entity-name l.drift --add-config retention.ms=-1'
    """
    where = f"--bootstrap-server {shlex.quote(kafka.bootstrap)}"
    if kafka.security_protocol != "PLAINTEXT":
        where += " --command-config client.properties"
    lines = [*_copies(differences), *_partitions(differences, where, f"{prefix}metrics")]
    settings = [d for d in differences if d.setting not in ("partitions", "replication")]
    for topic, group in groupby(settings, key=lambda difference: difference.topic):
        found = {difference.setting: difference for difference in group}
        if msk_serverless and "cleanup.policy" in found:
            lines += _anew(topic, where, "MSK Serverless takes a cleanup.policy only when it makes a topic")
        else:
            lines += _altered(topic, found, where)
    return lines


def _copies(differences: Sequence[Difference]) -> Iterator[str]:
    for found, topics in Counter(d.found for d in differences if d.setting == "replication").items():
        yield f"# {topics} topics have {found} copies: pass --replication {found} to keep it so, or reassign partitions"


def _partitions(differences: Sequence[Difference], where: str, metrics: str) -> Iterator[str]:
    differing = [d for d in differences if d.setting == "partitions"]
    for d in differing:
        if d.topic == metrics:
            # Whatever the others have is compared with a number that is not to be.
            yield f"# {metrics}: with other partitions, streams leave their history: pass --partitions {d.found}"
            return
    for d in differing:
        if int(d.found) < int(d.declared):
            yield f"kafka-topics {where} --alter --topic {shlex.quote(d.topic)} --partitions {d.declared}"
        else:
            yield from _anew(d.topic, where, "Kafka takes no partition away")


def _anew(topic: str, where: str, why: str) -> Iterator[str]:
    yield f"# {topic}: {why}. Where its records may go, delete it and run 'linkcast topics apply' again:"
    yield f"# kafka-topics {where} --delete --topic {shlex.quote(topic)}"


def _altered(topic: str, found: dict[str, Difference], where: str) -> Iterator[str]:
    if loss := _loss(found):
        yield f"# {topic}: this deletes {loss}"
    # In one command: a policy of "delete" ahead of its retention would delete by the retention there was.
    settings = ",".join(f"{name}={difference.declared}" for name, difference in found.items())
    entity = f"--entity-type topics --entity-name {shlex.quote(topic)}"
    yield f"kafka-configs {where} --alter {entity} --add-config {settings}"


def _loss(found: dict[str, Difference]) -> str:
    """Return which records the declared settings delete, in words; "" where they delete none."""
    policy, retention = found.get("cleanup.policy"), found.get("retention.ms")
    if policy and policy.declared == "compact":
        return "all but the newest record of each key"
    if retention and retention.declared == "-1":
        return ""
    if policy or (retention and (retention.found in ("-1", "unset") or int(retention.found) > int(retention.declared))):
        return "what is older than its retention"
    return ""
