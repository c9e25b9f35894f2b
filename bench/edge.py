"""The Lambda costs little beside what it calls, runs no record twice without need, and starts within a second.

AWS is stood in for at botocore's wire: requests are built, signed and parsed as ever, and answered here.
"""

import base64
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType
from botocore.awsrequest import AWSResponse

from infra.cdk.package import compile_for, copy_ours, strip
from lambda_adapter import handler
from lambda_adapter.alerts import Alerts
from lambda_adapter.batch import OrderedKafkaProcessor
from lambda_adapter.dead_letters import DeadLetters
from lambda_adapter.insights import Insights
from lambda_adapter.outbox import Outbox
from lambda_adapter.records import read
from lambda_adapter.scoring import Scorer

_NOW_MS = 1_767_225_600_000
_ROOT = Path(__file__).parents[1]
_TRIES_OF_POISON = 4
_ACCESS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}


def bench(*, rounds: int = 60, records: int = 100, service_ms: float = 4.0, cold_starts: int = 5) -> dict[str, Any]:
    """Measure batches of `records`: of which 2 are changes (the rest is silent), and all of them.

    `ours_ms_p95` is without AWS, `clients_ms_p95` with the clients' own work, `whole_ms_p95` with `service_ms` of
    waiting for each call: an assumption, DynamoDB's usual answer time. `calls` is how many there are.
    """
    figures: dict[str, Any] = {"differing": 0}
    for name, changes in (("few", 2), ("all", records)):
        figures |= {f"{key}_{name}": value for key, value in _batch(rounds, records, changes, service_ms).items()}
    figures |= {f"executions_{name}": n for name, n in executions().items()}
    figures["cold_start_s"] = cold_start_s(cold_starts, python_path=_ROOT)
    return figures


def _batch(rounds: int, records: int, changes: int, service_ms: float) -> dict[str, float]:
    event = _event(records, changes)
    figures: dict[str, float] = {}
    for name, wire in (("ours", None), ("clients", _Wire(0.0)), ("whole", _Wire(service_ms / 1000))):
        times, cpu = _times(event, wire, rounds if name != "whole" else max(3, rounds // 6))
        figures[f"{name}_ms_p95"] = _p95(times)
        if name == "ours":
            figures["ours_cpu_ms"] = round(statistics.median(cpu) * 1e3, 2)
        if name == "clients" and wire:
            figures["calls"] = wire.calls // (rounds + 1)
    return figures


def _times(event: dict[str, Any], wire: "_Wire | None", rounds: int) -> tuple[list[float], list[float]]:
    """Return seconds of each round, by the clock and of CPU; a first round is not counted."""
    adapter = _adapter(wire)
    context = SimpleNamespace(
        function_name="bench", memory_limit_in_mb=512, invoked_function_arn="arn", aws_request_id="1",
        get_remaining_time_in_millis=lambda: 60_000,
    )  # fmt: skip
    times, cpu = [], []
    with mock.patch.object(handler, "adapter", return_value=adapter), contextlib.redirect_stdout(io.StringIO()):
        for _ in range(rounds + 1):
            start, start_cpu = time.perf_counter(), time.process_time()
            response = handler.lambda_handler(event, context)
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            assert response == {"batchItemFailures": []}, response
    return times[1:], cpu[1:]


def _adapter(wire: "_Wire | None") -> handler.Adapter:
    table: Any = _Instant()
    events: Any = table
    if wire:
        session = boto3.session.Session(**_ACCESS)
        table = session.resource("dynamodb").Table("insights")
        events = session.client("events")
        for client in (table.meta.client, events):
            client.meta.events.register("before-send", wire.answer)
    return handler.Adapter(
        insights=Insights(table),
        alerts=Alerts(table, Outbox(table, events, clock=lambda: _NOW_MS), bus="alerts", clock=lambda: _NOW_MS),
        dead_letters=DeadLetters("dead", "127.0.0.1:1"),
        scorer=Scorer(),
        enrichment=None,
        clock=lambda: _NOW_MS,
    )


class _Instant:
    """A table, its client and a bus that take everything at once."""

    name = "insights"

    @property
    def meta(self) -> SimpleNamespace:
        return SimpleNamespace(client=self)

    def put_item(self, **_arguments: Any) -> dict[str, Any]:
        return {}

    def update_item(self, **arguments: Any) -> dict[str, Any]:
        return {"Attributes": {"ports": arguments["ExpressionAttributeValues"].get(":ports", set())}}

    def put_events(self, *, Entries: list[Any]) -> dict[str, Any]:
        return {"FailedEntryCount": 0, "Entries": [{} for _ in Entries]}


class _Wire:
    """Answers each request in place of AWS, after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.calls, self._seconds = 0, seconds

    def answer(self, request: Any, **_event: Any) -> AWSResponse:
        self.calls += 1
        time.sleep(self._seconds)
        entries = json.loads(request.body).get("Entries", [])
        answer: dict[str, Any] = {"FailedEntryCount": 0, "Entries": [{} for _ in entries]}
        if not entries:
            answer = {"Attributes": {"ports": {"SS": ["leaf-000/1"]}}}
        body = json.dumps(answer).encode()
        return AWSResponse(request.url, 200, {}, SimpleNamespace(stream=lambda: iter([body])))


def _event(records: int, changes: int) -> dict[str, Any]:
    """A batch of one partition, of which every so-manieth record is a change of a port of its own."""
    every = records // changes
    said = [_prediction(i, is_change=i % every == 0) for i in range(records)]
    assert sum(read(value).change is not None for value in said) == changes  # type: ignore[union-attr]
    return {
        "eventSource": "aws:kafka",
        "records": {"p-0": [_record(offset, base64.b64encode(v).decode()) for offset, v in enumerate(said)]},
    }


def _record(offset: int, value: str | None) -> dict[str, Any]:
    return {"topic": "p", "partition": 0, "offset": offset, "timestamp": _NOW_MS, "value": value, "headers": []}


def _prediction(i: int, *, is_change: bool) -> bytes:
    stream_id = f"leaf-{i:03d}/1"
    said = {
        "v": 1, "stream_id": stream_id, "ts": _NOW_MS, "class": "healthy", "risk": 1.5, "confidence": 0.99,
        "model": "20261123-0123456789ab", "src": f"0:{i}:0",
    }  # fmt: skip
    if is_change:
        said |= {
            "class": "latency_spike", "risk": 85.0, "change": "opened", "episode": f"{stream_id}@{_NOW_MS}",
            "probabilities": {"latency_spike": 0.9, "healthy": 0.1},
            "drivers": [{"feature": "latency_p99", "value": 7.25, "contribution": 1.5}],
        }  # fmt: skip
    return json.dumps(said).encode()


def _p95(seconds: list[float]) -> float:
    return round(sorted(seconds)[int(0.95 * (len(seconds) - 1))] * 1e3, 2)


def executions() -> dict[str, int]:
    """Count record executions with 1 poison and 1 flaky record in 300, in batches of at most 100.

    The source resumes at the lowest failed offset and gives a record up after 4 tries. `ours` counts the poison, a
    dead letter, as done; `stop` is our processor alone, without that; `stock` is Powertools' own.
    """
    stock = BatchProcessor(event_type=EventType.Kafka, raise_on_entire_batch_failure=False)
    return {
        "ours": _executions(OrderedKafkaProcessor(), is_poison_done=True),
        "stop": _executions(OrderedKafkaProcessor(), is_poison_done=False),
        "stock": _executions(stock, is_poison_done=False),
    }


def _executions(processor: BatchProcessor, *, is_poison_done: bool) -> int:
    poison, flaky, last = 150, 210, 300
    run: list[int] = []

    def take(record: Any) -> None:
        run.append(record.offset)
        tries = run.count(record.offset)
        if (record.offset == poison and not is_poison_done) or (record.offset == flaky and tries == 1):
            raise TimeoutError

    at, tries_at = 0, 0
    while at < last:
        records = [_record(offset, None) for offset in range(at, min(at + 100, last))]
        with processor(records, take):
            processor.process()
        failed = [f["itemIdentifier"]["offset"] for f in processor.response()["batchItemFailures"]]
        resumed = min(failed, default=at + len(records))
        tries_at = run.count(resumed) if failed else 0
        at = resumed + (tries_at >= _TRIES_OF_POISON)
    assert set(run) == set(range(last))
    return len(run)


def cold_start_s(starts: int, *, python_path: Path) -> float:
    """Return seconds from a fresh process to a first answer, the least of `starts`: interpreter, imports, clients."""
    script = (
        "import types\n"
        "from lambda_adapter.handler import lambda_handler\n"
        "context = types.SimpleNamespace(function_name='f', memory_limit_in_mb=512, invoked_function_arn='a',\n"
        "    aws_request_id='1', get_remaining_time_in_millis=lambda: 60_000)\n"
        "lambda_handler({'eventSource': 'aws:kafka', 'records': {}}, context)\n"
    )
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {name.upper(): value for name, value in _ACCESS.items()} | {"AWS_DEFAULT_REGION": "eu-central-1"}
    environment |= {f"LINKCAST_{name}": "x" for name in ("TABLE", "BUS", "DEAD_TOPIC", "BOOTSTRAP", "ENDPOINT")}
    # As in Lambda, whose folder can't be written to: what comes without bytecode is compiled at each start.
    environment |= {"PYTHONPATH": str(python_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"AWS_LAMBDA_FUNCTION_NAME": "f", "LAMBDA_TASK_ROOT": str(python_path)}
    seconds = []
    for _ in range(starts):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return round(min(seconds), 3)


def package(folder: Path, cold_starts: int = 5) -> dict[str, float]:
    """Install the `aws` extra for this machine into `folder`, as a Lambda's package; return its size and cold start.

    Needs a package index.
    """
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["optional-dependencies"]["aws"],
        *(d for d in project["dependencies"] if d.startswith("msgspec")),
    ]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)]
    subprocess.run([*pip, *wanted], check=True)
    copy_ours(folder)
    strip(folder)
    compile_for(sys.executable, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"package_mb": round(size / 1e6, 1), "package_cold_start_s": cold_start_s(cold_starts, python_path=folder)}
