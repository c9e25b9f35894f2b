"""Alerts on EventBridge: once an episode and band of risk, once for a whole node where many of its ports open at once.

An alert is claimed by a conditional write, published, then marked as sent (an outbox of one item an alert). Whoever
crashes before the mark leaves a claim that lapses, and the record, not committed, comes again: no alert is lost. One is
published twice only if EventBridge took it and its answer or the mark got lost; `alert_id` is the same then.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from lambda_adapter.insights import EXPIRES, Explained, expiry, is_unmet, model_used
from lambda_adapter.records import Change
from streams.contract import LinkcastError

WINDOW_MS = 5 * 60 * 1000
ENTRIES_MAX = 10
"""Of one PutEvents call."""
LEASE_MS = 8_000
"""Longer than a PutEvents with its retries takes; so long the next try waits where this one was killed."""
PORTS_TOLD = 64
PORTS_COUNTED_MAX = 1_000
"""An item holds 400 KB, and a port's name may have 200 bytes."""
SOURCE = "linkcast"
PORT_ALERT, NODE_ALERT = "Link failure predicted", "Node incident predicted"


class AlertHeld(LinkcastError):
    """Another Lambda is publishing this alert just now."""


class AlertRefused(LinkcastError):
    """EventBridge took the call and refused the entry."""


class _Claim(NamedTuple):
    is_ours: bool
    held_ms: int  # how long somebody else's lease still runs; 0 where the alert is ours, or was sent


class Alert(NamedTuple):
    """A change that is worth an alert, with its explanation."""

    change: Change
    explanation: Explained


class Alerts:
    """Publishes the alerts of a batch.

    Parameters
    ----------
    table
        A `boto3` Table resource of `insights.TABLE`; it holds the claims and the nodes' counts.
    events, bus
        EventBridge client, and name or ARN of the bus.
    risk
        From which a change is an alert, 0 to 100.
    incident_ports
        So many ports of a node, opened within one window of `WINDOW_MS`, are one incident. Windows have fixed edges, so
        that a replay counts the same; an event on an edge gives two incidents at most.
    clock, wait
        The time in ms since the epoch, and how to let so many seconds pass.
    """

    def __init__(
        self,
        table: Any,
        events: Any,
        *,
        bus: str,
        risk: float = 80.0,
        incident_ports: int = 8,
        clock: Callable[[], int],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._table, self._events, self._clock, self._wait = table, events, clock, wait
        self._bus, self._risk, self._incident_ports = bus, risk, incident_ports
        self._ports: dict[str, set[str]] = {}  # opened, by node and window, as far as this batch has asked
        self._published: set[str] = set()  # whose mark failed behind the publishing: to be marked and not sent again

    def merits(self, change: Change) -> bool:
        """Whether a change is an alert. A language model's score never is: nobody is woken on a guess."""
        is_guess = model_used(change.model) == "bedrock"
        return change.change in ("opened", "worsened") and change.risk >= self._risk and not is_guess

    def count(self, change: Change) -> None:
        """Count an opened port of its node. Counting it again changes nothing: the item holds a set of ports."""
        key = _window_key(change)
        try:
            answer = self._table.update_item(
                Key=key,
                UpdateExpression="ADD ports :port SET expires_at = :expires",
                ConditionExpression="attribute_not_exists(ports) OR size(ports) < :max",
                ExpressionAttributeValues={
                    ":port": {change.stream_id},
                    ":expires": expiry(self._clock()),
                    ":max": PORTS_COUNTED_MAX,
                },
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            if not is_unmet(error):
                raise
            return  # so many are an incident whatever comes
        self._ports[key["entity_id"]] = set(answer["Attributes"]["ports"])

    def publish(self, alerts: Sequence[Alert]) -> list[Exception | None]:
        """Publish what was not published yet; return for each alert the error for which its record must come again."""
        failed: dict[str, Exception] = {}
        entries: dict[str, dict[str, Any]] = {}
        wanted: list[str] = []
        for alert in alerts:
            try:
                alert_id, entry = self._entry(alert)
            except (BotoCoreError, ClientError) as error:
                alert_id = _port_alert_id(alert.change)
                failed[alert_id] = error
            else:
                entries.setdefault(alert_id, entry)
            wanted.append(alert_id)
        self._ports.clear()  # the next batch may come hours later, and other Lambdas count as well
        for chunk in _chunks(list(entries), ENTRIES_MAX):
            failed |= self._publish_chunk({alert_id: entries[alert_id] for alert_id in chunk})
        return [failed.get(alert_id) for alert_id in wanted]

    def _entry(self, alert: Alert) -> tuple[str, dict[str, Any]]:
        """Return the identity and the EventBridge entry of an alert, or of the incident that it is a part of."""
        change = alert.change
        window = _window_key(change)["entity_id"]
        ports = self._opened_ports(change)
        if len(ports) >= self._incident_ports:
            detail = {"alert_id": f"incident_{window}", "ports": sorted(ports)[:PORTS_TOLD]}
            return self._as_entry(NODE_ALERT, alert, detail | {"ports_opened": len(ports)})
        return self._as_entry(PORT_ALERT, alert, {"alert_id": _port_alert_id(change)})

    def _opened_ports(self, change: Change) -> set[str]:
        key = _window_key(change)
        if key["entity_id"] not in self._ports:
            item = self._table.get_item(Key=key, ConsistentRead=True).get("Item", {})
            self._ports[key["entity_id"]] = set(item.get("ports", ()))
        return self._ports[key["entity_id"]]

    def _as_entry(self, kind: str, alert: Alert, detail: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        change = alert.change
        detail |= {
            "stream_id": change.stream_id,
            "node": change.node,
            "event_time_ms": change.ts,
            "prediction_type": change.class_,
            "risk_score": change.risk,
            "confidence": change.confidence,
            "change": change.change,
            "episode": change.episode,
            "model_version": change.model,
            "src": change.src,
            "explanation": alert.explanation.text,
            "recommendations": list(alert.explanation.actions),
        }
        return detail["alert_id"], {
            "Source": SOURCE,
            "DetailType": kind,
            "Time": datetime.fromtimestamp(change.ts / 1000, UTC),
            "EventBusName": self._bus,
            "Detail": json.dumps(detail),
        }

    def _publish_chunk(self, entries: Mapping[str, dict[str, Any]]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        claimed = [alert_id for alert_id in entries if self._claim(alert_id, failed)]
        to_send = [alert_id for alert_id in claimed if alert_id not in self._published]
        refused = self._put_events({alert_id: entries[alert_id] for alert_id in to_send})
        self._published |= set(to_send) - refused.keys()
        for alert_id in refused:
            self._settle(alert_id, "SET lease_until = :zero", {":zero": 0}, failed)
        for alert_id in claimed:
            if alert_id not in refused and self._settle(alert_id, "SET alert_state = :sent", {":sent": "sent"}, failed):
                self._published.discard(alert_id)
        return failed | refused

    def _claim(self, alert_id: str, failed: dict[str, Exception]) -> bool:
        """Whether the alert is ours to publish. One that was sent is not, and that is no failure."""
        if alert_id in self._published:
            return True
        try:
            claim = self._try_claim(alert_id)
            if claim.held_ms > 0:
                # Most likely by a try of this very record that was killed: outlasting its lease costs less than
                # spending the mapping's retries on it.
                self._wait(min(claim.held_ms, LEASE_MS) / 1000)
                claim = self._try_claim(alert_id)
        except (BotoCoreError, ClientError) as error:
            failed[alert_id] = error
            return False
        if claim.held_ms > 0:
            failed[alert_id] = AlertHeld(f"{alert_id}: another Lambda is publishing it; its record comes again to see")
        return claim.is_ours

    def _try_claim(self, alert_id: str) -> "_Claim":
        now_ms = self._clock()
        try:
            self._table.update_item(
                Key=alert_key(alert_id),
                UpdateExpression=f"SET alert_state = :pending, lease_until = :until, {EXPIRES} = :expires",
                ConditionExpression="attribute_not_exists(entity_id) OR alert_state = :pending AND lease_until <= :now",
                ExpressionAttributeValues={
                    ":pending": "pending",
                    ":until": now_ms + LEASE_MS,
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
            return _Claim(is_ours=False, held_ms=0 if is_sent else int(held["lease_until"]["N"]) - now_ms)
        return _Claim(is_ours=True, held_ms=0)

    def _put_events(self, entries: Mapping[str, dict[str, Any]]) -> dict[str, Exception]:
        """Send up to `ENTRIES_MAX` entries; return the refused ones. The call takes some and refuses others."""
        if not entries:
            return {}
        try:
            answer = self._events.put_events(Entries=list(entries.values()))
        except (BotoCoreError, ClientError) as error:
            return dict.fromkeys(entries, error)
        if not answer["FailedEntryCount"]:
            return {}
        return {
            alert_id: AlertRefused(f"{self._bus}: {entry['ErrorCode']}: the entry is sent again with its record")
            for alert_id, entry in zip(entries, answer["Entries"], strict=True)
            if entry.get("ErrorCode")
        }

    def _settle(self, alert_id: str, update: str, values: dict[str, Any], failed: dict[str, Exception]) -> bool:
        try:
            self._table.update_item(Key=alert_key(alert_id), UpdateExpression=update, ExpressionAttributeValues=values)
        except (BotoCoreError, ClientError) as error:
            failed[alert_id] = error
            return False
        return True


def alert_key(alert_id: str) -> dict[str, str]:
    """Return the key of an alert's claim."""
    return {"entity_id": f"outbox_{alert_id}", "timestamp": "alert"}


def _port_alert_id(change: Change) -> str:
    return f"{change.episode}_{change.band}"


def _window_key(change: Change) -> dict[str, str]:
    # By the start of the episode: when the ports of an incident worsen, minutes later, they are still a part of it.
    start = change.opened_at // WINDOW_MS * WINDOW_MS
    return {"entity_id": f"node_{change.node}@{start}", "timestamp": "opened"}


def _chunks(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[i : i + size] for i in range(0, len(names), size))
