"""Insights in DynamoDB: one item a change, however often it comes, and reading them by stream and by time.

An item is the spec's (entity_id, timestamp, entity_type, prediction_type, risk_score, explanation …). Its key is made
of the prediction's own identity, never of the clock: a retry, a replay and a second Lambda all meet the first's item.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from boto3.dynamodb.conditions import Attr, ConditionBase, Key
from botocore.exceptions import ClientError

from lambda_adapter.records import Change
from streams.contract import LinkcastError

KEPT_S = 30 * 24 * 60 * 60
HEARTBEAT_MS = 15 * 60 * 1000
BY_STREAM, BY_TIME = "by_stream", "by_time"
EXPIRES = "expires_at"  # epoch seconds; `ttl` is a reserved word

TABLE: Mapping[str, Any] = {
    "KeySchema": [
        {"AttributeName": "entity_id", "KeyType": "HASH"},
        {"AttributeName": "timestamp", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "entity_id", "AttributeType": "S"},
        {"AttributeName": "timestamp", "AttributeType": "S"},
        {"AttributeName": "related_entity", "AttributeType": "S"},
        {"AttributeName": "day", "AttributeType": "S"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": BY_STREAM,
            "KeySchema": [
                {"AttributeName": "related_entity", "KeyType": "HASH"},
                {"AttributeName": "timestamp", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "ALL"},
        },
        {
            # A day is one index partition of 1,000 writes a second: 100,000 ports don't change that often.
            "IndexName": BY_TIME,
            "KeySchema": [
                {"AttributeName": "day", "KeyType": "HASH"},
                {"AttributeName": "timestamp", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "ALL"},
        },
    ],
    "BillingMode": "PAY_PER_REQUEST",
}
"""Arguments of `create_table` but its name: the tests' and the CDK's one definition. TTL goes on `EXPIRES`.

Alerts, incidents, open episodes and circuits are items of the same table; having no `related_entity` and no `day`, they
are in neither index.
"""


class PageRepeated(LinkcastError):
    """The table answered with the page that was read before: reading on would never end."""


class Explained(Protocol):
    """What the adapter needs of an explanation."""

    @property
    def text(self) -> str: ...
    @property
    def evidence(self) -> list[str]: ...
    @property
    def actions(self) -> list[str]: ...
    @property
    def source(self) -> str: ...


class Page(NamedTuple):
    """Insights, newest first, and the token that the next page is asked with; None where there is none."""

    items: list[dict[str, Any]]
    token: dict[str, str] | None


class Insights:
    """Writes to and reads from one table, a `boto3` Table resource."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._seen: OrderedDict[str, int] = OrderedDict()  # event time in ms at which an episode was last written

    def put(self, change: Change, explanation: Explained, now_ms: int) -> bool:
        """Write a change's insight. Return False if it was there already. Raises botocore's errors."""
        item = item_of(change, explanation, now_ms)
        return met(lambda: self._table.put_item(Item=item, ConditionExpression="attribute_not_exists(entity_id)"))

    def see(self, change: Change, now_ms: int) -> bool:
        """Write that an episode is still open, if nothing did within `HEARTBEAT_MS`; return whether this did.

        The episode's own start counts as written, and what this process wrote it remembers: an episode of an hour costs
        three writes, one shorter than 15 minutes none. Event time decides, so that a replay repeats nothing.
        """
        episode = change.episode
        assert episode, "a record outside an episode has no heartbeat"
        if change.ts - max(change.opened_at, self._seen.get(episode, 0)) < HEARTBEAT_MS:
            return False
        written = met(lambda: self._write_seen(change, episode, now_ms))
        self._seen[episode] = change.ts
        self._seen.move_to_end(episode)
        while len(self._seen) > _EPISODES_REMEMBERED:
            self._seen.popitem(last=False)
        return written

    def _write_seen(self, change: Change, episode: str, now_ms: int) -> Any:
        return self._table.update_item(
            Key=episode_key(episode),
            UpdateExpression="SET last_seen = :ts, risk_score = :risk, entity_type = :type, expires_at = :expires",
            ConditionExpression="attribute_not_exists(last_seen) OR last_seen <= :before",
            ExpressionAttributeValues={
                ":ts": change.ts,
                ":before": change.ts - HEARTBEAT_MS,
                ":risk": _decimal(change.risk, 2),
                ":type": "episode",
                ":expires": expiry(now_ms),
            },
        )

    def announces(self, change: Change, now_ms: int) -> bool:
        """Whether a change is the first of its episode and band, or that one again: no worker said so for it."""
        item = {
            "entity_id": f"announced_{change.episode}_{change.band}",
            "timestamp": "first",
            "src": change.src,
            EXPIRES: expiry(now_ms),
        }
        return met(
            lambda: self._table.put_item(
                Item=item,
                ConditionExpression="attribute_not_exists(entity_id) OR src = :src",
                ExpressionAttributeValues={":src": change.src},
            )
        )

    def last_seen(self, episode: str) -> int | None:
        """Return the event time in ms of an episode's newest heartbeat, None where it never had one."""
        item = self._table.get_item(Key=episode_key(episode)).get("Item")
        return int(item["last_seen"]) if item else None

    def by_stream(
        self, stream_id: str, *, now_ms: int, since_ms: int = 0, limit: int = 50, token: dict[str, str] | None = None
    ) -> Page:
        """Return a stream's insights, newest first, of event time `since_ms` to `now_ms`; none that has expired.

        Raises botocore's errors, and `PageRepeated`.
        """
        where = Key("related_entity").eq(stream_id) & Key("timestamp").between(timestamp(since_ms), timestamp(now_ms))
        return self._page(BY_STREAM, where, now_ms, limit, token)

    def by_time(self, *, now_ms: int, since_ms: int, limit: int = 50, token: dict[str, str] | None = None) -> Page:
        """Return all insights, newest first, of event time `since_ms` to `now_ms`; none that has expired.

        Raises botocore's errors, and `PageRepeated`.
        """
        items: list[dict[str, Any]] = []
        for day in _days(since_ms, now_ms, newest=token["day"] if token else None):
            where = Key("day").eq(day) & Key("timestamp").between(timestamp(since_ms), timestamp(now_ms))
            page = self._page(BY_TIME, where, now_ms, limit - len(items), token)
            items += page.items
            token = page.token
            if token or len(items) >= limit:
                return Page(items, token or _before(day, since_ms))
        return Page(items, None)

    def _page(self, index: str, where: ConditionBase, now_ms: int, limit: int, token: dict[str, str] | None) -> Page:
        # DynamoDB deletes an expired item hours or days late, and counts `Limit` before it filters: ask on.
        items: list[dict[str, Any]] = []
        while True:
            start = {"ExclusiveStartKey": token} if token and "entity_id" in token else {}
            answer = self._table.query(
                IndexName=index,
                KeyConditionExpression=where,
                FilterExpression=Attr(EXPIRES).gt(now_ms // 1000),
                ScanIndexForward=False,
                Limit=limit - len(items),
                **start,
            )
            last = answer.get("LastEvaluatedKey")
            if token and start and last and (last == token or last["timestamp"] > token["timestamp"]):
                raise PageRepeated(
                    f"table {self._table.name}, index {index}: asked for what follows {token['entity_id']!r}, it gave "
                    "what comes before: does something between here and DynamoDB keep or change its answers?"
                )
            items += answer["Items"]
            token = last
            if not token or len(items) >= limit:
                return Page(items, token)


_EPISODES_REMEMBERED = 10_000


def item_of(change: Change, explanation: Explained, now_ms: int) -> dict[str, Any]:
    """Return the item of a change; only its expiry depends on `now_ms`."""
    when = timestamp(change.ts)
    return {
        "entity_id": f"alert_{change.stream_id}_{change.src}",
        "timestamp": when,
        "entity_type": "insight",
        "prediction_type": change.class_,
        "risk_score": _decimal(change.risk, 2),
        "explanation": explanation.text,
        "evidence": list(explanation.evidence),
        "recommendations": list(explanation.actions),
        "explained_by": explanation.source,
        "confidence": _decimal(change.confidence, 4),
        "model_used": model_used(change.model),
        "model_version": change.model,
        "related_entity": change.stream_id,
        "node": change.node,
        "change": change.change or "",
        "episode": change.episode or "",
        "day": when[:10],
        EXPIRES: expiry(now_ms),
    }


def model_used(model: str) -> str:
    """Return which kind of scorer a model's version names.

    >>> model_used("rules"), model_used("20261123-0123456789ab"), model_used("bedrock:claude")
    ('rules', 'xgboost', 'bedrock')
    """
    if model == "rules":
        return model
    return "bedrock" if model.startswith("bedrock:") else "xgboost"


def timestamp(ms: int) -> str:
    """Return epoch milliseconds as the text that sorts in time.

    >>> timestamp(1_767_225_600_001)
    '2026-01-01T00:00:00.001Z'
    """
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def expiry(now_ms: int) -> int:
    """Return the epoch second at which what is written now is to go."""
    return now_ms // 1000 + KEPT_S


def episode_key(episode: str) -> dict[str, str]:
    """Return the key of the item that says when an episode was last seen."""
    return {"entity_id": f"episode_{episode}", "timestamp": "last_seen"}


def met(write: Any) -> bool:
    """Do a conditional write and return whether its condition held."""
    try:
        write()
    except ClientError as error:
        if not is_unmet(error):
            raise
        return False
    return True


def is_unmet(error: ClientError) -> bool:
    """Whether the error says that the condition of a write did not hold."""
    return bool(error.response["Error"]["Code"] == "ConditionalCheckFailedException")


def _decimal(value: float, places: int) -> Decimal:
    # DynamoDB takes no float, and boto3 refuses a Decimal of more digits than it keeps.
    return round(Decimal(str(value)), places)


def _days(since_ms: int, until_ms: int, newest: str | None) -> Iterator[str]:
    """Yield days from the newest back to the oldest; nothing is older than what has not expired yet."""
    oldest = timestamp(max(since_ms, until_ms - (KEPT_S + _LATE_S) * 1000))[:10]
    day = datetime.fromisoformat(newest or timestamp(until_ms)[:10])
    while (name := day.date().isoformat()) >= oldest:
        yield name
        day -= timedelta(days=1)


_LATE_S = 7 * 24 * 60 * 60
"""A record may be a topic's retention old when its insight is written, and lives 30 days from then."""


def _before(day: str, since_ms: int) -> dict[str, str] | None:
    earlier = (datetime.fromisoformat(day) - timedelta(days=1)).date().isoformat()
    return {"day": earlier} if earlier >= timestamp(since_ms)[:10] else None
