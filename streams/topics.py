"""The declared topics: how many partitions each has, how long it keeps what, how large a record may be.

`infra.topics` makes and checks them. Importing this needs no Kafka client.
"""

from typing import NamedTuple

DAY_MS = 24 * 60 * 60 * 1000
MIB = 1024 * 1024
PARTITIONS = 8
"""Of `metrics` and all that follow it, where nobody says otherwise."""


class Topic(NamedTuple):
    """One declared topic, its name without the prefix."""

    name: str
    follows_metrics: bool  # as many partitions as `metrics`, so that partition numbers match; else 1
    config: dict[str, str]  # as Kafka names and prints it

    def partitions(self, of_metrics: int) -> int:
        """Return how many partitions it has where `metrics` has `of_metrics`."""
        return of_metrics if self.follows_metrics else 1


# The broker's clock stamps all of them. Retention and the check against the future never rest on a producer's, and a
# writer whose clock is an hour ahead is not refused for ever.
_BY_THE_BROKER = {"message.timestamp.type": "LogAppendTime"}
_COMPACTED = {"cleanup.policy": "compact"} | _BY_THE_BROKER
# Not compacted, where a record's key is less than its identity: by node, one verdict a switch would be left. The bytes
# are said as well, since a cluster may have a limit of its own (MSK Serverless: 250 GiB).
_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"} | _BY_THE_BROKER


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)} | _BY_THE_BROKER


DEAD_VALUE_BYTES_MAX, DEAD_KEY_BYTES_MAX = 7 * MIB, MIB // 2
"""Of a dead letter, whose record may be longer: a broker measures it as its producer compressed it. With the headers
that is below the `max.message.bytes` of `metrics.dead`, 13 MiB and on MSK Serverless 8."""

TOPICS = (
    # A record far too large still gets in, so that it becomes a dead letter and not a loss that only its producer
    # heard of.
    Topic("metrics", True, _kept(7) | {"max.message.bytes": str(12 * MIB)}),
    Topic("metrics.dead", True, _kept(30) | {"max.message.bytes": str(13 * MIB)}),
    Topic("features", True, _kept(30)),
    Topic("predictions", True, _kept(7)),
    Topic("predictions.dead", False, _kept(30)),  # cut to what a record may hold; written by the Lambda adapter
    Topic("outcomes", True, _kept(90)),
    Topic("labels", True, _FOR_EVER),
    Topic("signals", False, _kept(90)),
    Topic("calls", True, _kept(90)),
    Topic("drift", False, _kept(90)),
    Topic("scorecards", False, _FOR_EVER),
    Topic("retrain", False, _kept(90)),
    Topic("models", False, _COMPACTED),
    Topic("rollout", False, _FOR_EVER),
    Topic("state", True, _COMPACTED),
)
"""All topics, in the order in which events and models take their way, and the adapter's dead letters."""

RESERVED = frozenset({"outcomes", "labels", "signals", "calls", "drift", "scorecards", "retrain", "rollout"})
"""Topics that nothing of linkcast reads yet: declared so that their contract and partitions are settled."""
