"""No change is lost and none becomes two insights or two alerts, whatever fails between Kafka and AWS.

The adapter works as deployed, in the processes of AWS' runtime client behind the event source. Its AWS fails by plan
(`soak_aws`), it does itself (`soak_handler`), and with or without its processes it is killed by kill -9 (`edge_soak`).
"""

import asyncio
import contextlib
import tempfile
import uuid
from collections import Counter
from pathlib import Path

from bench import edge_soak, soak_aws
from bench.soak_changes import Due, compared, due_of, is_malformed, is_unscored, value_of
from infra.broker.process import running_broker
from streams.kafka import KafkaSettings

TIME_OUT_S = 20.0  # the adapter begins no record in its last 15
CONCURRENCY = 2


def bench(
    *, records: int = 100_000, kills: int = 3, batch_size: int = 100, time_out_s: float = TIME_OUT_S,
    kafka: KafkaSettings | None = None,
) -> dict[str, object]:  # fmt: skip
    """Let the adapter take `records` while everything about it fails; compare what is there with what is due.

    Whatever ends in `_lost`, `_twice` or `_unwanted` is to be 0, and so are `lost`, `given_up_wrongly` and
    `beyond_bound`.
    """
    with contextlib.ExitStack() as stack:
        if kafka is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            kafka = KafkaSettings(bootstrap=stack.enter_context(running_broker(folder)))
        aws, dead_topic = soak_aws.FaultyAws(edge_soak.SEED), f"soak-{uuid.uuid4().hex[:8]}.letters"
        asyncio.run(edge_soak.create_topics(kafka, {dead_topic: 1}))
        environment = _environment(stack.enter_context(soak_aws.serving(aws)), kafka, dead_topic)
        figures = edge_soak.bench(
            records=records, kills=kills, batch_size=batch_size, runtime=True, kafka=kafka, environment=environment,
            handler="bench.soak_handler:handler", value_of=value_of, time_out_s=time_out_s, concurrency=CONCURRENCY,
        )  # fmt: skip
        letters = asyncio.run(_letters(kafka, dead_topic))
    return figures | _found(records, aws) | _buried(records, letters) | {"faults": dict(aws.faults)}


def _environment(url: str, kafka: KafkaSettings, dead_topic: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": soak_aws.REGION, "AWS_REGION": soak_aws.REGION, "POWERTOOLS_TRACE_DISABLED": "true",
        "LINKCAST_TABLE": soak_aws.TABLE, "LINKCAST_BUS": "alerts", "LINKCAST_ENDPOINT": "soak",
        "LINKCAST_DEAD_TOPIC": dead_topic, "LINKCAST_BOOTSTRAP": kafka.bootstrap,
    }  # fmt: skip


async def _letters(kafka: KafkaSettings, topic: str) -> Counter[edge_soak.Id]:
    """Count the dead letters by partition and offset at the source."""
    letters = await edge_soak.headers_in(kafka, topic)
    return Counter((int(at["partition"]), int(at["offset"])) for at in letters)


def _found(records: int, aws: soak_aws.FaultyAws) -> dict[str, object]:
    insights = [item for item in aws.stored() if item.get("entity_type") == {"S": "insight"}]
    stored = Counter(soak_aws.src_of(item) for item in insights)
    by_rules = sum(item["model_used"] == {"S": "rules"} for item in insights)
    unscored = sum(is_unscored(i) for i in _answerable(records))
    figures = compared(_dues(records), writes=aws.writes, stored=stored, alerts=aws.alerts, twice=aws.alerts_twice)
    return {
        **figures,
        "unscored": unscored,
        "fallback_pct": round(100 * by_rules / len(insights), 3),
        "fallback_of_unscored_pct": round(100 * by_rules / max(1, unscored), 1),
        "requests_invalid": aws.invalid,
        "endpoint_calls": aws.scored,
        "aws_requests": aws.asked,
    }


def _buried(records: int, letters: Counter[edge_soak.Id]) -> dict[str, int]:
    poison = edge_soak.draw(records).poison
    due = {edge_soak.id_of(i) for i in range(records) if is_malformed(i)} - poison
    return {
        "letters": len(letters),
        "letters_lost": len(due - letters.keys()),
        "letters_unwanted": len(letters.keys() - due),
        "letters_again": letters.total() - len(letters),
    }


def _dues(records: int) -> list[Due]:
    return [due_of(i) for i in _answerable(records)]


def _answerable(records: int) -> list[int]:
    """Return the records that are neither malformed nor bring the function down."""
    poison = edge_soak.draw(records).poison
    return [i for i in range(records) if not is_malformed(i) and edge_soak.id_of(i) not in poison]


def failed(figures: dict[str, object]) -> list[str]:
    """Return the names of the figures that should be 0 and are not."""
    zeros = ("lost", "given_up_wrongly", "poison_done", "beyond_bound", "requests_invalid")
    return [
        name for name, n in figures.items() if n and (name in zeros or name.endswith(("_lost", "_twice", "_unwanted")))
    ]
