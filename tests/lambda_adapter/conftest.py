"""The adapter against moto's own server, over HTTP, as the real clients speak to AWS."""

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from lambda_adapter.alerts import Alerts
from lambda_adapter.explanations import explain
from lambda_adapter.handler import Adapter
from lambda_adapter.insights import TABLE, Insights
from lambda_adapter.scoring import Scorer
from tests.lambda_adapter.samples import BUS, NOW_MS, Bus, Letters


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    """Where AWS is."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> boto3.session.Session:
    """A session of an AWS that all tests of this process share."""
    for name, value in {
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.session.Session()


@pytest.fixture
def table(aws: boto3.session.Session) -> Any:
    """The table of insights, empty and this test's own."""
    return aws.resource("dynamodb").create_table(TableName=f"insights-{next(_tables)}", **TABLE)


_tables = count()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def clock() -> list[int]:
    """The time in its only element."""
    return [NOW_MS]


@pytest.fixture
def adapter(table: Any, bus: Bus, letters: Letters, clock: list[int]) -> Adapter:
    def wait(seconds: float) -> None:
        clock[0] += int(seconds * 1000)

    return Adapter(
        insights=Insights(table),
        alerts=Alerts(table, bus, bus=BUS, clock=lambda: clock[0], wait=wait),
        dead_letters=letters,  # type: ignore[arg-type]
        scorer=Scorer(),
        explain=explain,
        enrichment=None,
        clock=lambda: clock[0],
    )
