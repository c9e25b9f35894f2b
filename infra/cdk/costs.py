"""What a deployment costs a month: prices, loads and arithmetic, as `python -m infra.cdk.costs` prints them.

Prices are of us-east-1, each with where it is from. Most are recollections: compare them with AWS' own list first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from infra.cdk.deployment import INTERFACE_ENDPOINTS
from streams.topics import TOPICS

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
    "endpoint": _remembered(0.115, "instance-hour, ml.m5.large"),
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
    episodes_per_port_month, changes_per_episode
        An episode opens, worsens, eases and closes. One a month and port is a fabric in a bad state.
    worded_share
        Of the episodes, those that the language model words: at most all, if it is on.
    """

    ports: int
    seconds_between: int = 60
    episodes_per_port_month: float = 1.0
    changes_per_episode: float = 4.0
    worded_share: float = 1.0
    event_bytes: int = 190  # a JSON metric event; Arrow sweeps are smaller
    prediction_bytes: int = 200
    feature_bytes: int = 130
    partitions: int = 8
    workers: int = 2  # one does 100,000 events a second (docs/benchmarks.md); the other is there when it dies
    batch_s: float = 0.05  # of the adapter, for up to 100 records: its goal
    tokens_in: int = 700
    tokens_out: int = 100

    @property
    def events(self) -> float:
        """Metric events a month, and so predictions."""
        return self.ports * DAYS * 86_400 / self.seconds_between

    @property
    def episodes(self) -> float:
        """Episodes a month."""
        return self.ports * self.episodes_per_port_month

    @property
    def changes(self) -> float:
        """Changes a month: insights."""
        return self.episodes * self.changes_per_episode

    @property
    def batches(self) -> float:
        """Invocations of the adapter a month: a batch is full with 100 records, or waits a second."""
        records_per_s = self.ports / self.seconds_between
        return DAYS * 86_400 * max(records_per_s / 100, min(1.0, records_per_s))


@dataclass(frozen=True)
class Line:
    """One line of the bill, with its arithmetic."""

    what: str
    usd: float
    how: str


def bill(load: Load) -> list[Line]:
    """Return what a month costs, line by line."""
    return [*_kafka(load), *_compute(load), *_outcomes(load), *_model(load), *_fixed(load)]


def _line(what: str, price: str, *factors: tuple[float, str]) -> Line:
    """Multiply factors (each with its unit) by a price, and keep the arithmetic as text."""
    usd = PRICES[price].usd
    for factor, _ in factors:
        usd *= factor
    how = " × ".join(f"{factor:,.4g} {unit}" if factor < 1_000 else f"{factor:,.0f} {unit}" for factor, unit in factors)
    return Line(what, usd, f"{how} × ${PRICES[price].usd:.10g}")


def _kafka(load: Load) -> Iterator[Line]:
    topics = sum(topic.partitions(load.partitions) for topic in TOPICS)
    metrics, predictions, features = (
        load.events * size / 1e9 for size in (load.event_bytes, load.prediction_bytes, load.feature_bytes)
    )
    yield _line("MSK Serverless: cluster", "msk_cluster", (HOURS, "h"))
    yield _line("MSK Serverless: partitions", "msk_partition", (topics, "partitions"), (HOURS, "h"))
    yield _line("MSK Serverless: written", "msk_in", (metrics + predictions + features, "GB"))
    # The workers read metrics and the adapter predictions; features wait for whoever trains.
    yield _line("MSK Serverless: read", "msk_out", (metrics + predictions, "GB"))
    kept = ((metrics + predictions) * 7 + features * 30) / DAYS
    yield _line("MSK Serverless: kept", "msk_storage", (kept, "GB"))


def _compute(load: Load) -> Iterator[Line]:
    yield _line("Fargate: CPU", "fargate_cpu", (load.workers, "vCPU"), (HOURS, "h"))
    yield _line("Fargate: memory", "fargate_gb", (load.workers * 4, "GB"), (HOURS, "h"))
    yield _line("Lambda: poller", "poller", (1, "unit"), (HOURS, "h"))
    yield _line("Lambda: invocations", "lambda_call", (load.batches / 1e6, "million"))
    yield _line("Lambda: time", "lambda_gb_s", (load.batches, "batches"), (load.batch_s, "s"), (0.5, "GB"))


def _outcomes(load: Load) -> Iterator[Line]:
    # An item of 1 to 2 KB is two units, in the table and in each of its two indexes; four more for claims and counts.
    yield _line("DynamoDB: writes", "table_write", (load.changes / 1e6, "million insights"), (10, "units"))
    kept = load.changes * 3 * 1_500 / 1e9
    yield _line("DynamoDB: kept", "table_storage", (kept, "GB"))
    yield _line("DynamoDB: recovery", "table_backup", (kept, "GB"))
    yield _line("EventBridge", "event", (load.episodes / 1e6, "million alerts"))


def _model(load: Load) -> Iterator[Line]:
    calls = load.episodes * load.worded_share / 1e6
    yield _line("SageMaker: endpoint", "endpoint", (2, "instances"), (HOURS, "h"))
    yield _line("SageMaker: training", "training", (1, "h"))
    yield _line("Bedrock: said", "bedrock_in", (calls, "million calls"), (load.tokens_in, "tokens"))
    yield _line("Bedrock: heard", "bedrock_out", (calls, "million calls"), (load.tokens_out, "tokens"))


def _fixed(load: Load) -> Iterator[Line]:
    yield _line("VPC endpoints", "vpc_endpoint", (len(INTERFACE_ENDPOINTS), "services"), (2, "zones"), (HOURS, "h"))
    yield _line("CloudWatch: logs", "log", (1 + load.batches * 2_000 / 1e9, "GB"))
    yield _line("CloudWatch: alarms", "alarm", (20, "alarms"))
    yield _line("CloudWatch: metrics", "metric", (10, "metrics"))
    yield _line("CloudWatch: dashboard", "dashboard", (1, "board"))
    yield _line("KMS", "key", (1, "key"))


def page() -> str:
    """Return the tables of docs/deploy.md, in Markdown."""
    bills = {ports: bill(Load(ports=ports)) for ports in (1_000, 10_000, 100_000)}
    return "\n\n".join([_totals(bills), _arithmetic(bills[10_000], 10_000), _prices()]) + "\n"


def _totals(bills: dict[int, list[Line]]) -> str:
    rows = [
        "| USD a month | " + " | ".join(f"{ports:,} ports" for ports in bills) + " |",
        "| --- |" + " --- |" * len(bills),
    ]
    rows += [
        f"| {lines[0].what} | " + " | ".join(f"{line.usd:,.2f}" for line in lines) + " |"
        for lines in zip(*bills.values(), strict=True)
    ]
    totals = [sum(line.usd for line in lines) for lines in bills.values()]
    rows.append("| **all** | " + " | ".join(f"**{total:,.0f}**" for total in totals) + " |")
    rows.append(
        "| **a port** | "
        + " | ".join(f"**{total / ports:,.3f}**" for ports, total in zip(bills, totals, strict=True))
        + " |"
    )
    return "\n".join(rows)


def _arithmetic(lines: list[Line], ports: int) -> str:
    rows = [f"| {line.what} | {line.how} | {line.usd:,.2f} |" for line in lines]
    return "\n".join([f"| at {ports:,} ports | arithmetic | USD |", "| --- | --- | --- |", *rows])


def _prices() -> str:
    rows = [f"| {price.unit} | ${price.usd:.10g} | {price.source} |" for price in PRICES.values()]
    return "\n".join([f"| price of one ({DATED}, us-east-1) | USD | from |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(page(), end="")
