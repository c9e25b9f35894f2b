"""`/metrics` for Prometheus and `/healthz` for whoever restarts a worker, over HTTP in a thread of its own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from streams.contract import LinkcastError

STUCK_AFTER_S = 60.0
"""A worker whose loop has not come round for this long is unhealthy."""


class PortTaken(LinkcastError):
    """Something else listens where the worker's health should."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a connection, for a bounded time, and of a bounded number: a new one takes the place of the oldest.

    So whoever holds connections, or says a byte now and then, keeps no probe from its answer.
    """

    daemon_threads = True
    request_queue_size = 128  # of 5, a probe that finds no place is repeated by its system a second later

    def __init__(self, *arguments: Any, connections_max: int, request_s_max: float) -> None:
        self._connections_max, self._request_s_max = connections_max, request_s_max
        self._since: dict[socket.socket, float] = {}  # open connections, the oldest first
        self._changing = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changing:
            self._since[request] = time.monotonic()
            if len(self._since) > self._connections_max:
                self._hang_up_on_oldest()
        super().process_request(request, client_address)

    def service_actions(self) -> None:  # twice a second, by `serve_forever`
        with self._changing:
            while self._since and time.monotonic() - next(iter(self._since.values())) > self._request_s_max:
                self._hang_up_on_oldest()

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def _hang_up_on_oldest(self) -> None:
        oldest = next(iter(self._since))
        del self._since[oldest]
        with suppress(OSError):  # it has just ended
            oldest.shutdown(socket.SHUT_RDWR)  # its thread reads an end, and closes


class _Quiet(WSGIRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serve(
    host: str,
    port: int,
    *,
    idle_s: Callable[[], float],
    model: Callable[[], str],
    connections_max: int = 32,
    request_s_max: float = 10.0,
) -> Iterator[int]:
    """Serve while the block runs; `port` 0 takes a free one. Yields the port; raises `PortTaken`.

    A connection is hung up on once it is `request_s_max` old, or the oldest of more than `connections_max`.
    """
    measures = make_wsgi_app()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return measures(environ, start_response)  # type: ignore[no-any-return]
        if environ["PATH_INFO"] != "/healthz":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/healthz or /metrics\n"]
        idle = idle_s()
        is_well = idle < STUCK_AFTER_S
        status = "200 OK" if is_well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"ok": is_well, "idle_s": round(idle, 1), "model": model()}).encode()]

    try:
        server = _Server((host, port), _Quiet, connections_max=connections_max, request_s_max=request_s_max)
    except OSError as error:
        raise PortTaken(
            f"{host}:{port}: {error.strerror}. Mend --health-host, or choose another --health-port, 0 for a free one"
        ) from error
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="health")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
