"""The Lambda Runtime API on a port of loopback: what a runtime client asks for work and answers to.

One server is one sandbox: one invocation at a time. It speaks just the HTTP/1.1 that `awslambdaric`'s two clients do
(libcurl for invocations, http.client for the error of an init).
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Self

from lambda_adapter.event_source.event import PAYLOAD_BYTES_MAX

HEADER_BYTES_MAX = 2 << 20
"""The runtime sends up to 1 MiB of stack trace as a header."""
_PREFIX = "/2018-06-01/runtime/"


class Invocation(NamedTuple):
    """What the runtime gets for one invocation."""

    request_id: str
    deadline_ms: int
    function_arn: str
    event: bytes


class Answer(NamedTuple):
    """What the runtime said: of an invocation, or of its init."""

    kind: str  # "response", "error", "init/error" or "too large"
    body: bytes
    error_type: str | None


class _Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class RuntimeApi:
    """Serves one runtime process: `begin` offers it an invocation and returns the future of its answer."""

    def __init__(self) -> None:
        self._next: asyncio.Queue[Invocation | None] = asyncio.Queue()  # None: no more
        self._answer: asyncio.Future[Answer] | None = None
        self._under_way: str | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.asked = asyncio.Event()  # for work: its init is over
        self.init_error: Answer | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEADER_BYTES_MAX)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and hang up."""
        self._server.close()
        for connection in self._serving.values():
            connection.close()
        # Not cancelled: asyncio's callback of a connection in Python 3.11 trips over a task that was.
        self._next.put_nowait(None)
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()

    def begin(self, invocation: Invocation) -> "asyncio.Future[Answer]":
        """Offer an invocation to the runtime; the future is its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._next.put_nowait(invocation)
        return self._answer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio serves each connection in a task"
        self._serving[task] = writer
        # Gone in the middle of a request: a runtime that was killed, which whoever killed it knows.
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            while request := await _read(reader, writer):
                status, headers, body = await self._respond(request)
                lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Length: {len(body)}", *headers, "", ""]
                # One write: header and body apart cost 40 ms each time, Nagle waiting for a delayed acknowledgement.
                writer.write("\r\n".join(lines).encode() + body)
                await writer.drain()
        del self._serving[task]
        writer.close()

    async def _respond(self, request: _Request) -> tuple[HTTPStatus, list[str], bytes]:
        path = request.path.removeprefix(_PREFIX)
        if (request.method, path) == ("GET", "invocation/next"):
            return await self._give()
        if (request.method, path) == ("POST", "init/error"):
            self.init_error = _answer("init/error", request)
            return HTTPStatus.ACCEPTED, [], b'{"status":"OK"}'
        for kind in ("response", "error"):
            if request.method == "POST" and path == f"invocation/{self._under_way}/{kind}":
                return self._take(_answer(kind, request))
        return HTTPStatus.FORBIDDEN, [], b'{"errorType":"InvalidRequestID"}'

    async def _give(self) -> tuple[HTTPStatus, list[str], bytes]:
        self.asked.set()
        invocation = await self._next.get()
        if invocation is None:
            self._next.put_nowait(None)  # for whoever else waits
            raise ConnectionAbortedError("no more invocations")
        self._under_way = invocation.request_id
        headers = [
            "Content-Type: application/json",
            f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}",
            f"Lambda-Runtime-Deadline-Ms: {invocation.deadline_ms}",
            f"Lambda-Runtime-Invoked-Function-Arn: {invocation.function_arn}",
        ]
        return HTTPStatus.OK, headers, invocation.event

    def _take(self, answer: Answer) -> tuple[HTTPStatus, list[str], bytes]:
        is_too_large = answer.kind == "response" and len(answer.body) > PAYLOAD_BYTES_MAX
        self._under_way = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer._replace(kind="too large") if is_too_large else answer)
        if is_too_large:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, [], b'{"errorType":"RequestEntityTooLarge"}'
        return HTTPStatus.ACCEPTED, [], b'{"status":"OK"}'


def _answer(kind: str, request: _Request) -> Answer:
    return Answer(kind, request.body, request.headers.get("lambda-runtime-function-error-type"))


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    """Return the next request, None once the client has hung up between two."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # libcurl asks above 1 MiB, and waits a second for it
    method, path, _ = first.split(" ", 2)
    return _Request(method, path, headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(chunks)


def error_of(answer: Answer) -> tuple[str, str]:
    """Return type and message of an answer that is an error."""
    try:
        said: Any = json.loads(answer.body)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    return str(said.get("errorType") or answer.error_type or "Unhandled"), str(said.get("errorMessage", ""))
