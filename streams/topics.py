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


def _kept(days: int, **config: str | int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)} | _dotted(config)


def _compacted(**config: str | int) -> dict[str, str]:
    return {"cleanup.policy": "compact"} | _dotted(config)


def _dotted(config: dict[str, str | int]) -> dict[str, str]:
    return {key.replace("_", "."): str(value) for key, value in config.items()}


DEAD_VALUE_BYTES_MAX, DEAD_KEY_BYTES_MAX = 7 * MIB, MIB // 2
"""Of a dead letter, whose record may be longer: a broker measures it as its producer compressed it. With the headers
that is below the `max.message.bytes` of `metrics.dead`, 13 MiB and on MSK Serverless 8."""
_BY_THE_BROKER = {"message_timestamp_type": "LogAppendTime"}

TOPICS = (
    # The broker's clock stamps it: retention and the check against the future never rest on a producer's. A record far
    # too large still gets in, so that it becomes a dead letter and not a loss that only its producer heard of.
    Topic("metrics", True, _kept(7, **_BY_THE_BROKER, max_message_bytes=12 * MIB)),
    # What a worker writes is stamped so too: by its own clock, an hour ahead, it would be refused for ever.
    Topic("metrics.dead", True, _kept(30, **_BY_THE_BROKER, max_message_bytes=13 * MIB)),
    Topic("features", True, _kept(30, **_BY_THE_BROKER)),
    Topic("predictions", True, _kept(7, **_BY_THE_BROKER)),
    Topic("predictions.dead", False, _kept(30)),  # cut to what a record may hold; written by the Lambda adapter
    Topic("outcomes", True, _kept(90)),
    Topic("labels", True, _compacted()),
    Topic("drift", False, _kept(90)),
    Topic("scorecards", False, _kept(30)),
    Topic("retrain", False, _kept(90)),
    Topic("models", False, _compacted()),
    # History: nothing younger than 90 days is compacted away, and the newest state of each model is kept for ever.
    Topic("rollout", False, _compacted(min_compaction_lag_ms=90 * DAY_MS)),
    Topic("state", True, _compacted(**_BY_THE_BROKER)),
)
"""All topics of the design, in its order, and the adapter's dead letters."""
