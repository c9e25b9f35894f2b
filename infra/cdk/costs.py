"""What a deployment costs a month: prices, loads and arithmetic, as `python -m infra.cdk.costs` prints them.

Prices are of us-east-1, each with where it is from. Most are recollections: compare them with AWS' own list first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

HOURS = 730
"""Of a month."""
DAYS = 30.4
DATED = "2026-11-23"


@dataclass(frozen=True)
class Price:
    """One price of AWS."""

    usd: float
    unit: str
    source: Literal["documented", "recollection"]


def _remembered(usd: float, unit: str) -> Price:
    return Price(usd, unit, "recollection")


PRICES = {
    "msk_cluster": _remembered(0.75, "cluster-hour, MSK Serverless"),
    "msk_partition": _remembered(0.0015, "partition-hour, MSK Serverless"),
    "msk_in": _remembered(0.10, "GB written to MSK Serverless"),
    "msk_out": _remembered(0.05, "GB read from MSK Serverless"),
    "msk_storage": _remembered(0.10, "GB-month kept by MSK Serverless"),
    "fargate_cpu": _remembered(0.04048, "vCPU-hour"),
    "fargate_gb": _remembered(0.004445, "GB-hour"),
    "poller": _remembered(0.185, "event poller unit-hour, Lambda's Kafka mapping in provisioned mode"),
    "lambda_gb_s": _remembered(0.0000133334, "GB-second, arm64"),
    "lambda_call": _remembered(0.20, "million invocations"),
    "table_write": _remembered(0.625, "million writes of up to 1 KB, DynamoDB on demand"),
    "table_storage": _remembered(0.25, "GB-month, DynamoDB"),
    "table_backup": _remembered(0.20, "GB-month, DynamoDB point-in-time recovery"),
    "event": _remembered(1.00, "million events on a custom bus"),
    "endpoint": _remembered(0.102, "instance-hour, ml.c6i.large"),
    "training": _remembered(0.23, "instance-hour, ml.m5.xlarge"),
    "vpc_endpoint": _remembered(0.01, "endpoint-hour and zone"),
    "nat": _remembered(0.045, "gateway-hour"),
    "log": _remembered(0.50, "GB of logs"),
    "alarm": _remembered(0.10, "alarm-month"),
    "metric": _remembered(0.30, "metric-month"),
    "dashboard": _remembered(3.00, "dashboard-month"),
    "key": _remembered(1.00, "key-month"),
    "bedrock_in": Price(1.00, "million tokens to Claude Haiku 4.5", "documented"),
    "bedrock_out": Price(5.00, "million tokens from Claude Haiku 4.5", "documented"),
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a fabric brings on, and how it is deployed.

    Parameters
    ----------
    ports, seconds_between
        Each port reports every so many seconds.
    changes_per_port_month
        Insights: a change of an episode. Most ports have none for months; this is a fabric with raised fault rates.
    episodes_share
        Of the changes, those that open an episode; with Bedrock on, each is worded by at most one call.
    """

    ports: int
    seconds_between: int = 60
    changes_per_port_month: float = 10.0
    episodes_share: float = 0.25
    event_bytes: int = 220  # a JSON metric event; sweeps and Arrow are smaller
    prediction_bytes: int = 260
    feature_bytes: int = 120  # a row of the features topic
    partitions: int = 8
    workers: int = 2
    tokens_in: int = 700
    tokens_out: int = 100

    @property
    def events(self) -> float:
        """Metric events a month."""
        return self.ports * DAYS * 86_400 / self.seconds_between

    @property
    def changes(self) -> float:
        """Changes, which are insights, a month."""
        return self.ports * self.changes_per_port_month


@dataclass(frozen=True)
class Line:
    """One line of the bill, with its arithmetic."""

    what: str
    usd: float
    how: str


def bill(load: Load) -> list[Line]:
    """Return what a month costs, line by line."""
    return [*_kafka(load), *_compute(load), *_outcomes(load), *_model(), *_fixed()]


def _line(what: str, *factors: tuple[float, str], price: str) -> Line:
    """Multiply the factors by a price, and keep the arithmetic as text."""
    usd = PRICES[price].usd
    for factor, _ in factors:
        usd *= factor
    how = " × ".join(f"{factor:,.6g} {word}" for factor, word in factors)
    return Line(what, usd, f"{how} × ${PRICES[price].usd:,.10g}")


def _kafka(load: Load) -> Iterator[Line]:
    topics = 7 * load.partitions + 5  # see streams.topics: seven follow `metrics`, five have one partition
    written = load.events * (load.event_bytes + load.prediction_bytes + load.feature_bytes) / 1e9
    # The workers read metrics, the adapter predictions; features are read by a trainer now and then.
    read = load.events * (load.event_bytes + load.prediction_bytes) / 1e9
    kept = written * 7 / DAYS + load.events * load.feature_bytes / 1e9 * 23 / DAYS
    yield _line("MSK Serverless, the cluster", (HOURS, "h"), price="msk_cluster")
    yield _line("MSK Serverless, partitions", (topics, "partitions"), (HOURS, "h"), price="msk_partition")
    yield _line("MSK Serverless, written", (written, "GB"), price="msk_in")
    yield _line("MSK Serverless, read", (read, "GB"), price="msk_out")
    yield _line("MSK Serverless, kept", (kept, "GB"), price="msk_storage")


def _compute(load: Load) -> Iterator[Line]:
    yield _line("Fargate, workers' CPU", (load.workers, "tasks × 1 vCPU"), (HOURS, "h"), price="fargate_cpu")
    yield _line("Fargate, workers' memory", (load.workers * 4, "GB"), (HOURS, "h"), price="fargate_gb")
    # Every prediction passes the adapter, which acts on changes: a batch holds 100 records or one second.
    batches = min(load.events / 100 + DAYS * 86_400 * 0.05, DAYS * 86_400 * load.partitions)
    yield _line("Lambda, pollers", (1, "unit"), (HOURS, "h"), price="poller")
    yield _line("Lambda, invocations", (batches / 1e6, "million batches"), price="lambda_call")
    yield _line("Lambda, time", (batches, "batches"), (0.05, "s × 0.5 GB"), (0.5, ""), price="lambda_gb_s")


def _outcomes(load: Load) -> Iterator[Line]:
    # Item of 1 to 2 KB: two units in the table, two in each of the two indexes.
    yield _line("DynamoDB, insights", (load.changes / 1e6, "million"), (6, "write units"), price="table_write")
    kept = load.changes * 3 * 1_500 / 1e9
    yield _line("DynamoDB, kept 30 days", (kept, "GB"), price="table_storage")
    yield _line("DynamoDB, recovery", (kept, "GB"), price="table_backup")
    yield _line("EventBridge, alerts", (load.changes / 1e6, "million at most"), price="event")


def _model() -> Iterator[Line]:
    yield _line("SageMaker, endpoint", (2, "instances"), (HOURS, "h"), price="endpoint")
    yield _line("SageMaker, training", (1, "h a month"), price="training")


def _fixed() -> Iterator[Line]:
    from infra.cdk.network import INTERFACE_ENDPOINTS

    number = len(INTERFACE_ENDPOINTS)
    yield _line("VPC endpoints", (number, "endpoints"), (2, "zones"), (HOURS, "h"), price="vpc_endpoint")
    yield _line("CloudWatch, logs", (5, "GB"), price="log")
    yield _line("CloudWatch, alarms", (21, "alarms"), price="alarm")
    yield _line("CloudWatch, our metrics", (9, "metrics"), price="metric")
    yield _line("CloudWatch, dashboard", (1, ""), price="dashboard")
    yield _line("KMS", (1, "key"), price="key")
