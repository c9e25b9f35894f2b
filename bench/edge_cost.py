"""Insights cost a fraction of what a language model's call for each would, because the calls are bounded.

The calls are counted, of the code that the Lambda runs, over a month of incidents at the rates of published fabrics;
prices are data with their source and date. Tokens are assumed: nothing here asks Bedrock.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from lambda_adapter.enrichment import Enrichment
from lambda_adapter.explanations import explain
from lambda_adapter.llm_limits import Budget, Cache
from lambda_adapter.records import Change

MONTH_S = 30 * 86_400
TOKENS_IN, TOKENS_OUT = 1_000, 200
"""Assumed of one call: our request is about 2,300 characters and a tool, its answer at most 500 tokens."""
ITEM_KIB = 3
"""An insight with text, evidence and actions is 2 to 3 KiB; DynamoDB writes and bills whole KiB."""
INDEXES = 2
_START_S = 1_767_225_600  # a midnight
_CHANGES_PER_INCIDENT = 4  # assumed: opened, worsened, eased, closed
_PORTS_PER_NODE = 8
_RATES: Mapping[str, float] = {
    "latency_spike": 12.0,
    "resource_saturation": 4.0,
    "qp_error_rate_high": 1.5,
    "anomaly_detected": 0.5,
    "performance_degradation": 0.3,
    "connection_instability": 0.066,
    "bandwidth_throttling": 0.05,
    "packet_loss_detected": 0.02,
    "memory_registration_failure": 0.0125,
    "rdma_timeout": 0.01,
}
"""Incidents a port and year, as the simulator has them (`offline.simulator.parameters`)."""


class Price(NamedTuple):
    """What AWS asks, in US dollars."""

    usd: float
    per: str
    source: str
    as_of: str


PRICES: Mapping[str, Price] = {
    "tokens_in": Price(1.00, "million tokens", "Claude Haiku 4.5, Anthropic's price list", "2026-11-23"),
    "tokens_out": Price(5.00, "million tokens", "Claude Haiku 4.5, Anthropic's price list", "2026-11-23"),
    "spec_insight": Price(375.0, "million insights", "the specification (Claude 3.5 Haiku), section 5", "2025-11-05"),
    "write": Price(0.625, "million write units of 1 KiB", "DynamoDB on demand, us-east-1, from memory", "2026-11-23"),
    "read": Price(0.125, "million read units of 4 KiB", "DynamoDB on demand, us-east-1, from memory", "2026-11-23"),
    "endpoint": Price(0.115, "hour of ml.m5.large", "SageMaker, us-east-1, from memory", "2026-11-23"),
}


class Month(NamedTuple):
    """US dollars a month of what differs, and of the insights' own writes, which all ways share."""

    llm_only_usd: float
    spec_llm_only_usd: float  # at the price an insight that the specification starts from
    ours_usd: float
    saved_percent: float
    saved_of_spec_percent: float


def monthly(
    insights: int,
    *,
    calls: int,
    tokens_in: int = TOKENS_IN,
    tokens_out: int = TOKENS_OUT,
    endpoint_instances: int = 0,
) -> Month:
    """Price a month of insights with a call for each, against ours with so many calls.

    Scoring is the worker's either way and costs nothing here; `endpoint_instances` adds a SageMaker endpoint, which
    only records without a prediction need. Lambda, Kafka and EventBridge are the same both ways and left out.

    >>> monthly(1_000_000, calls=15_000)
    Month(llm_only_usd=2005.62, spec_llm_only_usd=380.62, ours_usd=35.79, saved_percent=98.2, \
saved_of_spec_percent=90.6)
    >>> monthly(1_000_000, calls=15_000, endpoint_instances=2).saved_percent
    90.0
    """
    call = (tokens_in * PRICES["tokens_in"].usd + tokens_out * PRICES["tokens_out"].usd) / 1e6
    writes = insights * ITEM_KIB * (1 + INDEXES) * PRICES["write"].usd / 1e6
    # Of each call: claim, answer, minute and day. Of each opened incident, at most an insight: a look at what is known.
    limits = (4 * calls * PRICES["write"].usd + insights * PRICES["read"].usd) / 1e6
    endpoint = endpoint_instances * MONTH_S / 3600 * PRICES["endpoint"].usd
    llm_only, spec = writes + insights * call, writes + insights * PRICES["spec_insight"].usd / 1e6
    ours = writes + calls * call + limits + endpoint
    saved, saved_of_spec = (round(100 * (1 - ours / other), 1) for other in (llm_only, spec))
    return Month(round(llm_only, 2), round(spec, 2), round(ours, 2), saved, saved_of_spec)


def bench(*, insights: int = 1_000_000, seed: int = 7) -> dict[str, float]:
    """Count the calls of a month and price them; the endpoint's two instances are in `ours_with_endpoint_usd`."""
    calls = count_calls(insights=insights, seed=seed)
    month = monthly(insights, calls=calls)
    with_endpoint = monthly(insights, calls=calls, endpoint_instances=2)
    return {
        "insights": insights,
        "llm_calls": calls,
        **month._asdict(),
        "ours_with_endpoint_usd": with_endpoint.ours_usd,
        "saved_with_endpoint_percent": with_endpoint.saved_percent,
    }


def count_calls(*, insights: int, seed: int = 7) -> int:
    """Count the calls that the Lambda's own limits, at their defaults, let through in a month of so many insights."""
    clock, table, model = _Clock(), _Table(), _Model()
    enrichment = Enrichment(
        model, "counted", lambda call: call, Budget(table, clock=clock), Cache(table, clock=clock)
    )  # fmt: skip
    for change in _opened(insights // _CHANGES_PER_INCIDENT, clock, random.Random(seed)):
        enrichment.enrich(change, explain(change))
    return model.calls


class _Clock:
    def __init__(self) -> None:
        self.now = float(_START_S)

    def __call__(self) -> float:
        return self.now


def _opened(incidents: int, clock: _Clock, rng: random.Random) -> Iterator[Change]:
    """Yield incidents as they open, evenly over a month, on a fabric of the size that has so many of them."""
    ports = incidents * 12 / sum(_RATES.values())
    # A few nodes have most of the incidents: Gamma of shape 0.15, as the simulator's links.
    frailty = [rng.gammavariate(0.15, 1.0) for _ in range(max(1, round(ports / _PORTS_PER_NODE)))]
    nodes = rng.choices(range(len(frailty)), frailty, k=incidents)
    classes = rng.choices(list(_RATES), list(_RATES.values()), k=incidents)
    for i, (node, class_) in enumerate(zip(nodes, classes, strict=True)):
        clock.now = _START_S + MONTH_S * i / incidents
        stream, ts = f"host{node}/{rng.randrange(_PORTS_PER_NODE)}", int(clock.now * 1000)
        yield Change(
            stream_id=stream, ts=ts, src=f"0:{i}:0", class_=class_, risk=70.0, confidence=0.9, model="4f1c9a",
            change="opened", episode=f"{stream}@{ts}",
        )  # fmt: skip


class _Model:
    """Answers well, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def converse(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        used = {"name": "explain", "input": {"summary": "Nothing more.", "actions": []}}
        return {"stopReason": "tool_use", "output": {"message": {"content": [{"toolUse": used}]}}}


class _Table:
    """As much of a DynamoDB table as the limits use; the tests hold them to moto's."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], dict[str, Any]] = {}

    def get_item(self, *, Key: Mapping[str, str]) -> dict[str, Any]:
        item = self._items.get((Key["entity_id"], Key["timestamp"]))
        return {"Item": item} if item else {}

    def put_item(self, *, Item: dict[str, Any], **condition: Any) -> None:
        key = (Item["entity_id"], Item["timestamp"])
        _check(self._items.get(key, {}), **condition)
        self._items[key] = Item

    def update_item(self, *, Key: Mapping[str, str], UpdateExpression: str, **condition: Any) -> None:
        assert UpdateExpression.startswith("ADD calls :one "), UpdateExpression
        item = self._items.setdefault((Key["entity_id"], Key["timestamp"]), {})
        _check(item, **condition)
        item["calls"] = item.get("calls", 0) + 1


def _check(item: Mapping[str, Any], ConditionExpression: str = "", **values: Any) -> None:
    if not item or not ConditionExpression:
        return
    name, operator, value = ConditionExpression.rpartition(" OR ")[2].split()
    limit = values["ExpressionAttributeValues"][value]
    if not (item[name] < limit or (operator == "<=" and item[name] == limit)):
        raise ClientError({"Error": {"Code": "ConditionalCheckFailedException"}}, "Write")
