"""Alerts on EventBridge: once an episode and band of risk, once for a whole node where many of its ports open at once.

What is sent, is sent once (`outbox`).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from lambda_adapter.at_once import each
from lambda_adapter.insights import EXPIRES, Explained, expiry, is_unmet, model_used
from lambda_adapter.outbox import Outbox
from lambda_adapter.records import Change

WINDOW_MS = 5 * 60 * 1000
PORTS_TOLD = 64
PORTS_COUNTED_MAX = 500
"""Of a node and window, and so many more at once: an item holds 400 KB, and a port's name may have 200 bytes."""
SOURCE = "linkcast"
PORT_ALERT, NODE_ALERT = "Link failure predicted", "Node incident predicted"


class Alert(NamedTuple):
    """A change that may be worth an alert, with its explanation."""

    change: Change
    explanation: Explained


class Alerts:
    """Publishes the alerts of a batch.

    Parameters
    ----------
    table
        A `boto3` Table resource of `insights.TABLE`; it holds the nodes' opened ports.
    outbox, bus
        What publishes them, and name or ARN of the event bus.
    risk
        From which a change is an alert, 0 to 100.
    incident_ports
        So many ports of a node, opened within one window of `WINDOW_MS`, are one incident. Windows have fixed edges, so
        that a replay counts the same; an event on an edge gives two incidents at most.
    clock
        The time in ms since the epoch.
    """

    def __init__(
        self,
        table: Any,
        outbox: Outbox,
        *,
        bus: str,
        risk: float = 80.0,
        incident_ports: int = 8,
        clock: Callable[[], int],
    ) -> None:
        # Of table and client only the latter may be called by several threads.
        self._dynamodb, self._table = table.meta.client, table.name
        self._outbox, self._bus, self._clock = outbox, bus, clock
        self._risk, self._incident_ports = risk, incident_ports

    def merits(self, change: Change) -> bool:
        """Whether a change is an alert. A language model's score never is: nobody is woken on a guess."""
        is_guess = model_used(change.model) == "bedrock"
        return change.change in ("opened", "worsened") and change.risk >= self._risk and not is_guess

    def publish(self, alerts: Sequence[Alert]) -> list[Exception | None]:
        """Count the ports that opened, and publish what is an alert and was not published yet.

        Returns for each of `alerts` the error for which its record must come again.
        """
        opened = self._opened(alerts)
        ports, failed = each(self._add_ports, opened, opened.values())
        entries: dict[str, dict[str, Any]] = {}
        rests_on: list[str] = []  # the alert that each is a part of, else its node and window
        for alert in alerts:
            window = _window_id(alert.change)
            if window in failed or not self.merits(alert.change):
                rests_on.append(window)
                continue
            alert_id, entry = self._entry(alert, ports[window])
            entries.setdefault(alert_id, entry)
            rests_on.append(alert_id)
        failed |= self._outbox.publish(entries)
        return [failed.get(name) for name in rests_on]

    def _opened(self, alerts: Iterable[Alert]) -> dict[str, set[str]]:
        """Return the ports that opened by node and window; none where only an alert has to know of the others'."""
        opened: dict[str, set[str]] = {}
        for change, _explanation in alerts:
            if change.change == "opened":
                opened.setdefault(_window_id(change), set()).add(change.stream_id)
            elif self.merits(change):
                opened.setdefault(_window_id(change), set())
        return opened

    def _add_ports(self, window: str, opened: set[str]) -> set[str]:
        """Add ports to those of a node and window and return them all. A port that is there already changes nothing."""
        where = {"TableName": self._table, "Key": {"entity_id": window, "timestamp": "opened"}}
        if opened:
            try:
                answer = self._dynamodb.update_item(
                    **where,
                    UpdateExpression=f"ADD ports :ports SET {EXPIRES} = :expires",
                    ConditionExpression="attribute_not_exists(ports) OR size(ports) < :max",
                    ExpressionAttributeValues={
                        ":ports": set(sorted(opened)[:PORTS_COUNTED_MAX]),
                        ":expires": expiry(self._clock()),
                        ":max": PORTS_COUNTED_MAX,
                    },
                    ReturnValues="ALL_NEW",
                )
                return set(answer["Attributes"]["ports"])
            except ClientError as error:
                if not is_unmet(error):
                    raise  # else so many are an incident whatever comes
        item = self._dynamodb.get_item(**where, ConsistentRead=True).get("Item", {})
        return set(item.get("ports", ()))

    def _entry(self, alert: Alert, ports: set[str]) -> tuple[str, dict[str, Any]]:
        """Return the identity and the EventBridge entry of an alert, or of the incident that it is a part of."""
        if len(ports) >= self._incident_ports:
            detail = {"alert_id": f"incident_{_window_id(alert.change)}", "ports": sorted(ports)[:PORTS_TOLD]}
            return self._as_entry(NODE_ALERT, alert, detail | {"ports_opened": len(ports)})
        return self._as_entry(PORT_ALERT, alert, {"alert_id": f"{alert.change.episode}_{alert.change.band}"})

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


def _window_id(change: Change) -> str:
    # By the start of the episode: when the ports of an incident worsen, minutes later, they are still a part of it.
    return f"node_{change.node}@{change.opened_at // WINDOW_MS * WINDOW_MS}"
