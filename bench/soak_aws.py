"""An AWS that fails by plan: DynamoDB is moto's, EventBridge and a SageMaker endpoint are ours.

It throttles, answers 5xx, takes some of an EventBridge call and refuses the rest, and lets the client wait beyond its
time-out: with a request that never takes effect, that did at once, or that does once nobody waits for it any more.
"""

import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple

from moto.core.request import Request
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.responses import DynamoHandler

from lambda_adapter.insights import TABLE as DEFINITION
from lambda_adapter.outbox import outbox_key

ACCOUNT, REGION, TABLE = "123456789012", "eu-central-1", "insights"
LATE_S = 2.5  # the adapter's clients give up after 2
OUTAGE_EVERY, OUTAGE = 1_500, 8
"""Requests from one outage to the next, and so many fail together: the clients' own retries end within."""
SINGLE, ENDPOINT, REFUSED = 0.002, 0.03, 0.02
"""Share of requests that fail by themselves, of the endpoint's, and of EventBridge calls with refused entries."""
_AT_ONCE = ("throttled", "500", "503")
_LATE = ("never", "answered late", "took effect late")


class Answer(NamedTuple):
    """One response."""

    status: int
    body: bytes


class FaultyAws:
    """Answers requests; counts what took effect and what failed."""

    def __init__(self, seed: int) -> None:
        self.writes, self.alerts = Counter[str](), Counter[str]()
        self.alerts_twice = Counter[str]()  # sent by somebody who could have known that they were
        self.faults, self.asked, self.scored = Counter[str](), 0, 0
        self.invalid = 0  # requests that DynamoDB would refuse, whoever tries
        self._random, self._lock = random.Random(seed), Lock()
        self._moto("DynamoDB_20120810.CreateTable", json.dumps({"TableName": TABLE, **DEFINITION}).encode())

    def answer(self, target: str, path: str, body: bytes) -> Answer:
        """Answer one request; `target` is its x-amz-target."""
        service = "sagemaker" if path.startswith("/endpoints/") else target.partition(".")[0]
        with self._lock:
            fault = self._fault(service)
        if fault in _AT_ONCE:
            return _refusal(fault)
        if fault in ("never", "took effect late"):
            time.sleep(LATE_S)
        if fault == "never":
            return _refusal("503")
        with self._lock:  # DynamoDB's conditional writes are atomic, moto's are not
            answer = self._done(service, target, body, is_heard=fault is None)
        if fault == "answered late":
            time.sleep(LATE_S)
        return answer

    def stored(self) -> Iterator[dict[str, Any]]:
        """Yield the table's items, in DynamoDB's JSON."""
        for item in dynamodb_backends[ACCOUNT][REGION].get_table(TABLE).all_items():
            yield item.to_json()["Attributes"]

    def _fault(self, service: str) -> str | None:
        self.asked += 1
        is_outage = self.asked % OUTAGE_EVERY >= OUTAGE_EVERY - OUTAGE
        if not is_outage and self._random.random() >= (ENDPOINT if service == "sagemaker" else SINGLE):
            return None
        fault = self._random.choice(_AT_ONCE if is_outage else _AT_ONCE * 2 + _LATE)
        self.faults[fault] += 1
        return fault

    def _done(self, service: str, target: str, body: bytes, *, is_heard: bool) -> Answer:
        if service == "sagemaker":
            self.scored += 1
            return Answer(200, _SCORE)
        if service == "AWSEvents":
            return self._put_events(json.loads(body)["Entries"], is_heard=is_heard)
        if not _is_valid(json.loads(body)):
            self.invalid += 1
            return _refusal("invalid")
        answer = self._moto(target, body)
        if target.endswith(".PutItem") and answer.status == 200:
            item = json.loads(body)["Item"]
            if item.get("entity_type") == {"S": "insight"}:
                self.writes[src_of(item)] += 1
        return answer

    def _put_events(self, entries: list[dict[str, Any]], *, is_heard: bool) -> Answer:
        refused = range(1, len(entries), 2) if self._random.random() < REFUSED else range(0)
        self.faults["entry refused"] += len(refused)
        for i, entry in enumerate(entries):
            if i not in refused:
                self._take_alert(json.loads(entry["Detail"])["alert_id"], is_heard=is_heard)
        results = [
            {"ErrorCode": "ThrottlingException"} if i in refused else {"EventId": f"{i}"} for i in range(len(entries))
        ]
        return Answer(200, json.dumps({"FailedEntryCount": len(refused), "Entries": results}).encode())

    def _take_alert(self, alert_id: str, *, is_heard: bool) -> None:
        self.alerts[alert_id] += 1
        # One that came late was sent before its sender, having given up on it, sent and marked it again.
        if is_heard and self._is_marked(alert_id):
            self.alerts_twice[alert_id] += 1

    def _is_marked(self, alert_id: str) -> bool:
        key = (DynamoType({"S": part}) for part in outbox_key(alert_id).values())
        item = dynamodb_backends[ACCOUNT][REGION].get_table(TABLE).get_item(*key)
        return item is not None and item.to_json()["Attributes"]["alert_state"] == {"S": "sent"}

    def _moto(self, target: str, body: bytes) -> Answer:
        # Past moto's own server, whose routing takes longer than its table.
        scope = f"Credential=none/20260101/{REGION}/dynamodb/aws4_request"
        headers = {
            "X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=none",
        }  # fmt: skip
        request = Request.from_primitives("POST", f"http://dynamodb.{REGION}.amazonaws.com/", headers, body)
        status, _headers, answer = DynamoHandler.dispatch(request, request.url, request.headers)
        return Answer(status, answer.encode() if isinstance(answer, str) else answer)


def src_of(item: dict[str, Any]) -> str:
    """Return the `src` of an insight."""
    return str(item["entity_id"]["S"]).rpartition("_")[2]


_SCORE = json.dumps({"class": "resource_saturation", "risk": 72.0, "confidence": 0.9, "model": "soak"}).encode()


def _is_valid(request: dict[str, Any]) -> bool:
    """Whether both parts of the key are text: moto 5.2.5 trips over others, where DynamoDB answers."""
    key = request.get("Key") or request.get("Item") or {}
    return all(key[part["AttributeName"]].keys() == {"S"} for part in DEFINITION["KeySchema"] if key)


def _refusal(fault: str) -> Answer:
    kinds = {
        "invalid": (400, "ValidationException"),
        "throttled": (400, "ThrottlingException"),
        "500": (500, "InternalServerError"),
    }
    status, name = kinds.get(fault, (503, "ServiceUnavailable"))
    return Answer(status, json.dumps({"__type": name, "message": "by plan"}).encode())


@contextlib.contextmanager
def serving(aws: FaultyAws) -> Iterator[str]:
    """Serve an AWS on a free port of this machine and give its URL."""
    server = _Server(("127.0.0.1", 0), _Requests)
    server.aws = aws
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that was killed may have left its connection open
    aws: FaultyAws


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.server.aws.answer(self.headers.get("x-amz-target") or "", self.path, body)
        # Who gave up hears nothing, and its connection is gone.
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.status)
            self.send_header("content-type", "application/x-amz-json-1.0")
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
