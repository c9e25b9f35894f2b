"""`/metrics` for Prometheus and `/healthz` for whoever restarts a worker, over HTTP in a thread of its own."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from streams.contract import LinkcastError

STUCK_AFTER_S = 60.0
"""A worker whose loop has not come round for this long is unhealthy."""


class PortTaken(LinkcastError):
    """Something else listens where the worker's health should."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # whoever connects and says nothing holds up neither the others nor the end


class _Quiet(WSGIRequestHandler):
    timeout = 5.0  # s, for each read

    def handle(self) -> None:
        with suppress(TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serve(host: str, port: int, *, idle_s: Callable[[], float], model: Callable[[], str]) -> Iterator[int]:
    """Serve while the block runs; `port` 0 takes a free one. Yields the port; raises `PortTaken`."""
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
        server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise PortTaken(
            f"{host}:{port}: {error.strerror}. Mend --health-host, or choose another --health-port, 0 for a free one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="health")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
