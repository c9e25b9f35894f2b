"""The container of a SageMaker endpoint: `GET /ping` and `POST /invocations` on 8080, over one signed bundle.

The server is the standard library's, a thread a connection: it costs a fraction of a millisecond of the 50 that an
answer may take (`linkcast bench endpoint`), and only SageMaker's own front ever speaks to it. It runs in a container of
our own, and not in the stock XGBoost one: that one tries pickle first on whatever lies in the model's folder, and
makes a 500 of a bad request, which would roll back a good model.
"""

import contextlib
import json
import logging
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from streams.contract import LinkcastError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from online.models.bundle import Bundle

BODY_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 128
IDLE_S_MAX = 75.0
"""A connection on which nothing comes for so long is closed, in the middle of a body as well."""
STOP_S_MAX = 20.0
"""SageMaker kills 30 s after SIGTERM."""

log = logging.getLogger(__name__)


class PortTaken(LinkcastError):
    """Something else listens where the endpoint should."""


def serve(folder: Path, environment: Mapping[str, str], host: str, port: int, ready: Callable[[int], None]) -> bool:
    """Serve the bundle in `folder` until SIGTERM or Ctrl-C; return whether all that had begun was answered.

    `ready` is told the port (0 takes a free one) once /ping can be asked, while the bundle is still being loaded. A
    bundle that is refused ends nothing: /ping says why, until SageMaker gives the instance up.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    model = Model()
    try:
        endpoint = Endpoint((host, port), model)
    except OSError as error:
        raise PortTaken(f"{host}:{port}: {error.strerror}. Choose another with --port, 0 for a free one") from error
    threading.Thread(target=endpoint.serve_forever, daemon=True, name="accept").start()
    ready(endpoint.server_port)
    threading.Thread(target=model.load, args=(folder, environment), daemon=True, name="load").start()
    stop.wait()
    return endpoint.stop()


class Model:
    """The bundle that is served, or why there is none."""

    def __init__(self) -> None:
        self.bundle: Bundle | None = None
        self.refused = "the bundle is being loaded"

    def load(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Load the bundle if a key that the environment trusts signed it; else `refused` says why not."""
        try:
            # Here and not above: a second or two pass in these, and /ping has to answer meanwhile.
            from infra.sagemaker.rows import scored
            from infra.sagemaker.trust import from_environment
            from online.models.bundle import load_bundle

            bundle = load_bundle(_bundle_folder(folder), from_environment(environment))
            scored(bundle, golden_rows(bundle)[:1])  # the calibration's kernel gets compiled before a request waits
        except Exception as error:  # the top of this thread: whatever it is, /ping has to say it
            self.refused = str(error) if isinstance(error, LinkcastError) else f"loading broke: {error!r}"
            log.error("/ping says 503: %s", self.refused, exc_info=not isinstance(error, LinkcastError))
            return
        self.bundle = bundle
        log.info("serving %s", bundle.version)


def golden_rows(bundle: "Bundle") -> "NDArray[np.float32]":
    """Return the golden rows of a bundle, shape (n, 24)."""
    import numpy as np

    rows = np.frombuffer(bundle.manifest.golden.rows, "<f4")
    return rows.reshape(-1, len(bundle.manifest.features)).astype(np.float32)


def _bundle_folder(folder: Path) -> Path:
    """Return where the bundle's files are: in the folder or, as a training job leaves them, one below."""
    below = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return below[0] if len(below) == 1 and not (folder / "manifest.json").exists() else folder


class Endpoint(ThreadingHTTPServer):
    """The server: at most 128 connections, a body of at most 1 MiB, and an end that answers what has begun."""

    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], model: Model) -> None:
        super().__init__(address, _Handler)
        self.model = model
        self.is_stopping = False
        self._idle: dict[socket.socket, bool] = {}  # of each open connection: does it wait for a request?
        self._changed = threading.Condition()

    def server_bind(self) -> None:
        """Bind, without asking DNS for a name as the standard library's does: an isolated container has none."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, if there is room for it."""
        with self._changed:
            has_room = len(self._idle) < CONNECTIONS_MAX
            if has_room:
                self._idle[request] = True
        if has_room:
            super().process_request(request, client_address)
        else:
            log.warning("a connection refused: %d are open", CONNECTIONS_MAX)
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection for good."""
        super().shutdown_request(request)
        with self._changed:
            self._idle.pop(request, None)
            self._changed.notify_all()

    def set_idle(self, connection: socket.socket, is_idle: bool) -> None:
        """Note that a request has begun on a connection, or ended."""
        with self._changed:
            self._idle[connection] = is_idle

    def stop(self) -> bool:
        """Take no more requests, wait for those under way, and return whether all of them were answered."""
        self.is_stopping = True
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in (connection for connection, is_idle in self._idle.items() if is_idle):
                with contextlib.suppress(OSError):  # it was closed from the other side
                    connection.shutdown(socket.SHUT_RD)
            return self._changed.wait_for(lambda: not self._idle, STOP_S_MAX)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what broke a connection's thread; the others go on."""
        error = sys.exception()
        log.warning("a connection broke: %r", error, exc_info=not isinstance(error, OSError))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "linkcast", ""
    error_content_type, error_message_format = "application/json", '{"error": "HTTP %(code)d"}'
    timeout = IDLE_S_MAX
    # Head and body leave in one segment: written apart, Nagle's algorithm holds the body back for up to 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Endpoint
    _ROUTES: ClassVar = {"/ping": "GET", "/invocations": "POST"}

    def parse_request(self) -> bool:
        """Read the head of a request, whose first line is there."""
        self.server.set_idle(self.connection, False)
        self._started = time.perf_counter()
        return super().parse_request()

    def handle_one_request(self) -> None:
        """Wait for a request and answer it."""
        self._started = time.perf_counter()
        self.server.set_idle(self.connection, True)
        if self.server.is_stopping:  # and this connection was busy when the idle ones were closed
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        has_body = "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"
        if has_body:
            self._refuse(HTTPStatus.BAD_REQUEST, "GET takes no body")
        elif self._is_route("GET"):
            self._ping()

    def do_POST(self) -> None:
        body = self._body()
        if body is not None and self._is_route("POST"):
            self._invocation(body)

    def _is_route(self, method: str) -> bool:
        allowed = self._ROUTES.get(self.path)
        if allowed == method:
            return True
        if allowed is None:
            self._say(HTTPStatus.NOT_FOUND, {"error": "here are GET /ping and POST /invocations"})
        else:
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{self.path} takes {allowed}"})
        return False

    def _ping(self) -> None:
        model = self.server.model
        if model.bundle:
            self._say(HTTPStatus.OK, {"model": model.bundle.version})
        else:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": model.refused})

    def _invocation(self, body: bytes) -> None:
        if (bundle := self.server.model.bundle) is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": self.server.model.refused})
            return
        from infra.sagemaker.rows import OtherContentType, RowsRefused, answered

        try:
            self._send(HTTPStatus.OK, answered(bundle, self.headers.get("Content-Type"), body))
        except OtherContentType as error:
            self._say(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": str(error)})
        except RowsRefused as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _body(self) -> bytes | None:
        """Read the body whole; None where it can't be taken, and that was said."""
        declared = self.headers.get_all("Content-Length", [])
        # Two lengths, or one beside chunks, are how a second request is smuggled past whoever looked at the first.
        if len(declared) != 1 or not declared[0].isascii() or not declared[0].isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send one Content-Length")
        elif "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length and no Transfer-Encoding")
        elif len(declared[0]) > 18 or int(declared[0]) > BODY_BYTES_MAX:
            too_large = f"a body of {declared[0][:18]} bytes: at most {BODY_BYTES_MAX}"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
        elif len(body := self.rfile.read(int(declared[0]))) == int(declared[0]):
            return body
        self.close_connection = True  # refused, or the sender is gone
        return None

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Say why, and end the connection."""
        self.close_connection = True  # where the next request would begin is unknown
        self._say(status, {"error": why})
        self.wfile.flush()
        self._drain()

    def _drain(self) -> None:
        # What is closed with bytes unread is reset, and the sender would never read why.
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        left = 8 * BODY_BYTES_MAX
        while left > 0 and (chunk := self.rfile.read1(min(left, 1 << 16))):
            left -= len(chunk)

    def _say(self, status: HTTPStatus, said: dict[str, str]) -> None:
        self._send(status, json.dumps(said).encode())

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection or self.server.is_stopping:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log what was asked and how it went: never a body, nor a path that a stranger chose."""
        status = int(code)
        if self.command == "GET" and status == HTTPStatus.OK:
            return  # SageMaker asks every few seconds
        route = self.path if getattr(self, "path", None) in self._ROUTES else "elsewhere"
        ms = (time.perf_counter() - self._started) * 1e3
        log.info("%s %s %d %.1f ms", self.command, route, status, ms)

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002
        """Leave it to `log_request`, which is told of each answer."""
