"""The outbox: entries for EventBridge, each published once by whichever Lambda claims it.

An entry is claimed by a conditional write, published, then marked as sent (one item an entry). Whoever crashes before
the mark leaves a claim that lapses, and the record, not committed, comes again: none is lost. One is published twice
only if EventBridge took it and its answer or the mark got lost, which nobody can know; its identity is the same then.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from lambda_adapter.at_once import POOL, each
from lambda_adapter.insights import EXPIRES, expiry, is_unmet
from lambda_adapter.records import RecordRefused
from streams.contract import LinkcastError

Entries = Mapping[str, dict[str, Any]]
"""Entries of PutEvents by their identity."""

ENTRIES_MAX, CALL_BYTES_MAX = 10, 256 * 1024 - 1
"""Of one PutEvents call, whose entries have to be below 256 KiB together; bytes as `entry_bytes` counts them."""
CLAIMS_MAX = 100
"""Before they are published: the first must not lapse while the last is made."""
LEASE_MS, PUBLISHED_WITHIN_MS = 8_000, 6_500
"""How long an entry is its claimer's, and what a PutEvents with its retry may take of that: none begins later."""


class EntryHeld(LinkcastError):
    """Another Lambda is publishing this entry just now."""


class EntryRefused(LinkcastError):
    """EventBridge took the call and refused the entry."""


class _Claim(NamedTuple):
    is_ours: bool
    until_ms: int  # whosever it is; 0 where the entry was sent


class Outbox:
    """Publishes entries, one caller at a time.

    Parameters
    ----------
    table
        A `boto3` Table resource of `insights.TABLE`, for the claims.
    events
        EventBridge client.
    clock, wait
        The time in ms since the epoch, and how to let so many seconds pass.
    """

    def __init__(
        self, table: Any, events: Any, *, clock: Callable[[], int], wait: Callable[[float], None] = time.sleep
    ) -> None:
        # Of table and client only the latter may be called by several threads.
        self._dynamodb, self._table, self._events = table.meta.client, table.name, events
        self._clock, self._wait = clock, wait
        self._published: set[str] = set()  # whose mark failed behind the publishing: to be marked and not sent again

    def publish(self, entries: Entries) -> dict[str, Exception]:
        """Publish what was not published yet; return by identity why an entry's record must come again.

        An entry that no call can hold has a `RecordRefused`: no retry mends it, so its record must not come again.
        """
        failed: dict[str, Exception] = {
            entry_id: RecordRefused(
                "too_large", f"an alert of {size} bytes, EventBridge takes {CALL_BYTES_MAX} at most"
            )
            for entry_id, entry in entries.items()
            if (size := entry_bytes(entry)) > CALL_BYTES_MAX
        }
        entries = {entry_id: entry for entry_id, entry in entries.items() if entry_id not in failed}
        held = self._publish_chunks(entries, failed)
        if held:
            # Most likely by a try of these very records that was killed: outlasting the leases, once, costs less than
            # spending the mapping's retries on them.
            self._wait(min(max(0, max(held.values()) - self._clock()), LEASE_MS) / 1000)
            held = self._publish_chunks({entry_id: entries[entry_id] for entry_id in held}, failed)
        for entry_id in held:
            failed[entry_id] = EntryHeld(f"{entry_id}: another Lambda is publishing it; its record comes again to see")
        return failed

    def _publish_chunks(self, entries: Entries, failed: dict[str, Exception]) -> dict[str, int]:
        """Publish what can be claimed; return what can't, with the ms since the epoch until which it is held."""
        held: dict[str, int] = {}
        for chunk in _chunks(list(entries), CLAIMS_MAX):
            claims, errors = each(self._claim, chunk)
            # One that another claim of this chunk kept waiting is sent when its lease has lapsed, as anybody may then.
            begun_ms = self._clock() + PUBLISHED_WITHIN_MS
            ours = [entry_id for entry_id, claim in claims.items() if claim.is_ours and claim.until_ms >= begun_ms]
            held |= {i: claim.until_ms for i, claim in claims.items() if claim.until_ms and i not in ours}
            failed |= errors | self._publish_claimed({entry_id: entries[entry_id] for entry_id in ours})
        return held

    def _publish_claimed(self, entries: Entries) -> dict[str, Exception]:
        to_send = {entry_id: entry for entry_id, entry in entries.items() if entry_id not in self._published}
        refused: dict[str, Exception] = {}
        for answer in POOL.map(self._put_events, _calls(to_send)):
            refused |= answer
        self._published |= to_send.keys() - refused.keys()
        settled, unsettled = each(self._settle, entries, [entry_id in refused for entry_id in entries])
        self._published -= settled.keys()
        return unsettled | refused

    def _claim(self, entry_id: str) -> _Claim:
        if entry_id in self._published:
            return _Claim(is_ours=True, until_ms=_FOR_GOOD)
        now_ms = self._clock()
        until_ms = now_ms + LEASE_MS
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key=outbox_key(entry_id),
                UpdateExpression=f"SET alert_state = :pending, lease_until = :until, {EXPIRES} = :expires",
                ConditionExpression="attribute_not_exists(entity_id) OR alert_state = :pending AND lease_until <= :now",
                ExpressionAttributeValues={
                    ":pending": "pending",
                    ":until": until_ms,
                    ":now": now_ms,
                    ":expires": expiry(now_ms),
                },
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if not is_unmet(error):
                raise
            held = error.response["Item"]  # as it came over the wire: boto3 reads no item of an error
            is_sent = held["alert_state"]["S"] == "sent"
            return _Claim(is_ours=False, until_ms=0 if is_sent else int(held["lease_until"]["N"]))
        return _Claim(is_ours=True, until_ms=until_ms)

    def _put_events(self, entries: Entries) -> dict[str, Exception]:
        """Send the entries of one call; return the refused ones. The call takes some and refuses others."""
        try:
            answer = self._events.put_events(Entries=list(entries.values()))
        except (BotoCoreError, ClientError) as error:
            return dict.fromkeys(entries, error)
        if not answer["FailedEntryCount"]:
            return {}
        return {
            entry_id: EntryRefused(f"{entry['EventBusName']}: {result['ErrorCode']}: it is sent again with its record")
            for (entry_id, entry), result in zip(entries.items(), answer["Entries"], strict=True)
            if result.get("ErrorCode")
        }

    def _settle(self, entry_id: str, is_refused: bool) -> None:
        """Give a refused entry's claim back, and mark any other as sent."""
        update, value = ("lease_until = :value", 0) if is_refused else ("alert_state = :value", "sent")
        self._dynamodb.update_item(
            TableName=self._table,
            Key=outbox_key(entry_id),
            UpdateExpression=f"SET {update}",
            ExpressionAttributeValues={":value": value},
        )


_FOR_GOOD = 1 << 62


def outbox_key(entry_id: str) -> dict[str, str]:
    """Return the key of an entry's claim."""
    return {"entity_id": f"outbox_{entry_id}", "timestamp": "alert"}


def _chunks(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[i : i + size] for i in range(0, len(names), size))


def _calls(entries: Entries) -> Iterator[Entries]:
    """Cut entries into calls by number and by bytes: EventBridge refuses one that is too large whole."""
    call: dict[str, dict[str, Any]] = {}
    total = 0
    for entry_id, entry in entries.items():
        size = entry_bytes(entry)
        if call and (len(call) == ENTRIES_MAX or total + size > CALL_BYTES_MAX):
            yield call
            call, total = {}, 0
        call[entry_id] = entry
        total += size
    if call:
        yield call


def entry_bytes(entry: Mapping[str, Any]) -> int:
    """Return what an entry counts of a PutEvents call, as AWS computes it: 14 bytes for the time, and its texts.

    >>> entry_bytes({"Time": 0, "Source": "linkcast", "DetailType": "ü", "Detail": "{}", "EventBusName": "alerts"})
    26
    """
    texts = [entry.get(name) or "" for name in ("Source", "DetailType", "Detail")] + list(entry.get("Resources", ()))
    return 14 * ("Time" in entry) + sum(len(text.encode()) for text in texts)
