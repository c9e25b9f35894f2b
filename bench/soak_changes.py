"""The changes of the soak, each known by its number, and what all of them are to leave behind.

Most ports open an episode, worsen, ease and close it. Now and then 64 ports of one leaf do so within minutes; some
records carry features and no prediction; some are no predictions at all.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bench.edge_soak import PARTITIONS, id_of
from lambda_adapter.alerts import WINDOW_MS

START_MS = 1_767_225_600_000  # an edge of the windows
LEAF_PORTS = 64
_EPISODES_A_BLOCK = 500  # of one partition, the first `LEAF_PORTS` of them on one leaf
_CHANGES = ("opened", "worsened", "eased", "closed")
_FEATURES: Mapping[str, float] = {"utilization": 92.0}
"""What the rules score as 76 and `soak_aws` as 72: the same band."""


class Due(NamedTuple):
    """What one record is to leave: an insight by this `src`, and one of these alerts if there are any."""

    src: str
    alerts: frozenset[str]


def value_of(i: int) -> bytes | None:
    """Return the bytes of record `i`, None for a tombstone."""
    if is_malformed(i):
        return _malformed(i)
    return json.dumps(_event(i)).encode()


def is_malformed(i: int) -> bool:
    """Whether record `i` is to be a dead letter."""
    return i % 2_000 == 1_234


def is_unscored(i: int) -> bool:
    """Whether record `i` has features and no prediction."""
    return _episode(i) % 40 == 7


def due_of(i: int) -> Due:
    """Return what record `i` is to leave; it is not malformed."""
    said = _event(i)
    if said.get("change") not in ("opened", "worsened") or said["risk"] < 80:
        return Due(said["src"], frozenset())
    alerts = {f"{said['episode']}_{int(said['risk'] // 10)}"}
    if (leaf := _leaf(i)) is not None:
        block, _port = leaf
        alerts.add(f"incident_node_{_node(i)}@{START_MS + block * WINDOW_MS}")
    return Due(said["src"], frozenset(alerts))


def _malformed(i: int) -> bytes | None:
    said = _event(i)
    return (
        json.dumps(said | {"risk": float("nan"), "class": "healthy"}).encode(),
        b"\xff\xfe no JSON",
        json.dumps(said | {"v": 9}).encode(),
        None,
    )[i // 2_000 % 4]


def _event(i: int) -> dict[str, Any]:
    step, (block, within) = i // PARTITIONS % len(_CHANGES), divmod(_episode(i) // PARTITIONS, _EPISODES_A_BLOCK)
    opened_at = START_MS + block * WINDOW_MS + within * 10
    event = {"v": 1, "ts": opened_at + step, "src": "{}:{}:0".format(*id_of(i))}
    if is_unscored(i):
        return event | {"stream_id": f"edge-{_episode(i)}/{step}", "features": _FEATURES}
    stream_id = f"{_node(i)}/{within}"
    return event | {
        "stream_id": stream_id, "class": "latency_spike", "risk": _risks(i)[step], "confidence": 0.9,
        "model": "20261123-0123456789ab", "change": _CHANGES[step], "episode": f"{stream_id}@{opened_at}",
        "probabilities": {"latency_spike": 0.9, "healthy": 0.1},
        "drivers": [{"feature": "latency_p99", "value": 7.25, "contribution": 1.5}],
    }  # fmt: skip


def _risks(i: int) -> tuple[float, ...]:
    if _leaf(i) is not None:
        return 91.0, 96.0, 55.0, 20.0
    return 65.0, 85.0 if _episode(i) % 5 == 0 else 75.0, 55.0, 20.0


def _episode(i: int) -> int:
    """Return the number of the episode; one after the other in its partition, each with all its changes."""
    a_round = PARTITIONS * len(_CHANGES)
    return i // a_round * PARTITIONS + i % PARTITIONS


def _leaf(i: int) -> tuple[int, int] | None:
    """Return block and port where record `i` is a part of what befalls a whole leaf."""
    block, within = divmod(_episode(i) // PARTITIONS, _EPISODES_A_BLOCK)
    return (block, within) if within < LEAF_PORTS else None


def _node(i: int) -> str:
    leaf = _leaf(i)
    return f"port-{_episode(i)}" if leaf is None else f"leaf-{i % PARTITIONS}-{leaf[0]}"


def compared(
    dues: Iterable[Due], *, writes: Counter[str], stored: Counter[str], alerts: Counter[str], twice: Counter[str]
) -> dict[str, int]:
    """Count what is lost and what is there twice.

    Parameters
    ----------
    dues
        What each record is to leave.
    writes, stored
        Puts of insights that the table took, and its items, by `src`.
    alerts, twice
        Alerts that the bus took, by identity, and those of them that were marked as sent before.
    """
    dues = list(dues)
    wanted = {due.src for due in dues}
    allowed = {alert for due in dues for alert in due.alerts}
    return {
        "insights": len(stored),
        "insights_lost": len(wanted - stored.keys()),
        "insights_twice": sum(n > 1 for n in (writes | stored).values()),
        "insights_unwanted": len((writes | stored).keys() - wanted),
        "alerts": len(alerts),
        "alerts_lost": sum(not alerts.keys() & due.alerts for due in dues if due.alerts),
        "alerts_twice": twice.total(),
        "alerts_unwanted": len(alerts.keys() - allowed),
        # The sender was killed before it could mark it, or never heard that it was taken: its identity is the same.
        "alerts_again_unmarked": alerts.total() - len(alerts) - twice.total(),
        "incidents": sum(alert.startswith("incident_") for alert in alerts),
    }
