"""The adapter against moto's own server, over HTTP, as the real clients speak to AWS."""

import logging
from collections.abc import Iterator
from itertools import count
from threading import Lock, Thread
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from lambda_adapter.alerts import Alerts
from lambda_adapter.handler import Adapter, metrics
from lambda_adapter.insights import TABLE, Insights
from lambda_adapter.outbox import Outbox
from lambda_adapter.scoring import Scorer
from tests.lambda_adapter.bedrock_server import BedrockServer
from tests.lambda_adapter.samples import BUS, NOW_MS, Bus, Letters


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    """Where AWS is: moto, one request after the other.

    moto 5.2.5 looks at a condition and writes without a lock between the two: of 60 puts that two processes contended
    for, one was won by both. DynamoDB's conditional writes are atomic.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto, lock = DomainDispatcherApplication(create_backend_app), Lock()

    def in_turn(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(moto(environ, start_response))

    server = make_server("127.0.0.1", 0, in_turn, threaded=True, request_handler=MotoRequestHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


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
        alerts=Alerts(table, Outbox(table, bus, clock=lambda: clock[0], wait=wait), bus=BUS, clock=lambda: clock[0]),
        dead_letters=letters,  # type: ignore[arg-type]
        scorer=Scorer(),
        enrichment=None,
        clock=lambda: clock[0],
    )


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[BedrockServer]:
    server = BedrockServer()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pause before its retry, up to a second, is nobody's claim here."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture(autouse=True)
def no_metrics() -> None:
    """What another test counted is not this one's."""
    metrics.clear_metrics()
