"""How long the endpoint's container takes for one row over HTTP, and how many rows a second it answers.

An open loop as `bench.latency` is one: requests leave when the schedule says so, and what waits for a connection is
late from when it was due. The server is the command that the container runs, on a core of its own.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray

from bench.cluster import MeasurementFailed, cpu_s, one_core_free, small_bundle
from bench.void import late_loader, steal_s, stolen, stolen_pct
from infra.progress import step
from infra.sagemaker.endpoint import golden_rows
from infra.sagemaker.golden import body_of
from infra.sagemaker.rows import Answer
from infra.sagemaker.trust import TRUSTED_PEM, as_pem
from online.models.bundle import Bundle, load_bundle
from online.models.keys import load_trusted_keys
from online.models.scoring import Scorer
from streams.contract import CLASSES
from streams.features.kernel import Rows

LLM_MS = 500.0
"""An insight by the LLM, as the specification has it: what the endpoint replaces."""
CLOSED_LOOP = (1, 4, 16)
_CONNECTIONS = 16
_LOADED_S_MAX = 90.0
_QUANTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 100.0}

Int64s = NDArray[np.int64]


class Served(NamedTuple):
    """A server that runs, what it serves, and rows to ask it for."""

    port: int
    process: psutil.Process
    bundle: Bundle
    X: NDArray[np.float32]  # (n, 24)


class Answered(NamedTuple):
    """What became of requests: the monotonic clock in ns, shapes (n,), and the bodies of the answers."""

    sent: Int64s
    answered: Int64s
    late: Int64s  # how long after it could the request left
    bodies: list[bytes]


def bench(
    *, rate: int = 200, seconds: float = 20.0, closed_s: float = 4.0, model: Path | None = None
) -> dict[str, object]:  # fmt: skip
    """Measure `seconds` of single rows at `rate` a second, then what 1, 4 and 16 connections get without a schedule.

    `differing` counts answers that differ in any bit from the worker's own scorer on the same row.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linkcast-bench-")))
        folder = model.resolve() if model else small_bundle(home)
        core = stack.enter_context(one_core_free())
        served = stack.enter_context(_serving(folder, core, home / "endpoint.log"))
        requests = [_request(body_of(x)) for x in served.X]
        _open_loop(served, requests, rate, min(2.0, seconds))  # warm
        with step(f"{rate:,} rows/s for {seconds:g} s"):
            used_before_s, stolen_before_s = cpu_s(served.process), steal_s()
            due, flowed = _open_loop(served, requests, rate, seconds)
            used_s = cpu_s(served.process) - used_before_s
            host_pct = stolen_pct(steal_s() - stolen_before_s, seconds)
        closed = {str(n): _closed_loop(served, requests, n, closed_s) for n in CLOSED_LOOP}
    figures = _quantiles(flowed.answered - due)
    late = _quantiles(flowed.late)
    return {
        **figures,
        "times_faster_than_llm_at_p50": round(LLM_MS / figures["p50_ms"], 1),
        "cpu_us_per_request": round(used_s / len(due) * 1e6, 1),
        "rows_per_s": {n: figure["rows_per_s"] for n, figure in closed.items()},
        "closed_p95_ms": {n: figure["p95_ms"] for n, figure in closed.items()},
        "loader_late": late,
        "stolen_pct": host_pct,
        "differing": _differing(served, flowed.bodies),
        "requests": len(due),
        "rate": rate,
        "model": served.bundle.version,
        "void": stolen(host_pct) or late_loader(late["p99_ms"]),
    }


@contextmanager
def _serving(folder: Path, core: int, log: Path) -> Iterator[Served]:
    """Run `linkcast sagemaker serve` on a core until the block ends, as SageMaker would stop it."""
    keys = load_trusted_keys(folder.parent.parent / "keys")
    bundle = load_bundle(folder, keys)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "infra.command", "sagemaker", "serve", "--model", str(folder)]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output, stderr=output, env=os.environ | {TRUSTED_PEM: as_pem(keys)},
        )  # fmt: skip
    try:
        _until_loaded(child, port, log)
        process = psutil.Process(child.pid)
        process.cpu_affinity([core])
        yield Served(port, process, bundle, _rows(bundle))
    finally:
        child.terminate()
        child.wait(30)
    if child.returncode:
        raise MeasurementFailed(f"the server ended with {child.returncode}: {log.read_text()[-2_000:]}")


def _until_loaded(child: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _LOADED_S_MAX
    while child.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise MeasurementFailed(f"the endpoint didn't come up: {log.read_text()[-2_000:]}")


def _rows(bundle: Bundle, n: int = 2_000) -> NDArray[np.float32]:
    """Return rows whose values, and gaps, are each feature's own in the golden rows, drawn apart from each other."""
    golden = golden_rows(bundle)
    drawn = np.random.default_rng(20_261_125).integers(len(golden), size=(n, golden.shape[1]))
    X: NDArray[np.float32] = np.take_along_axis(golden, drawn, axis=0)
    return X


def _request(body: bytes) -> bytes:
    head = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _open_loop(served: Served, requests: list[bytes], rate: int, seconds: float) -> tuple[Int64s, Answered]:
    """Send request i at i/rate seconds, over the connections in turn; return when each was due, and its answer."""
    n = int(rate * seconds)
    due = time.monotonic_ns() + 100_000_000 + np.arange(n, dtype=np.int64) * 1_000_000_000 // rate
    answered = Answered(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64), [b""] * n)

    def ask(first: int) -> None:
        with closing(socket.create_connection(("127.0.0.1", served.port), timeout=30)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            free_at = 0
            for i in range(first, n, _CONNECTIONS):
                time.sleep(max(0, int(due[i]) - time.monotonic_ns()) / 1e9)
                answered.sent[i] = time.monotonic_ns()
                answered.late[i] = answered.sent[i] - max(int(due[i]), free_at)
                answered.bodies[i] = _exchange(connection, requests[i % len(requests)])
                answered.answered[i] = free_at = time.monotonic_ns()

    _in_threads(ask, _CONNECTIONS)
    if lost := sum(not body for body in answered.bodies):
        raise MeasurementFailed(f"of {n} requests {lost} have no answer")
    return due, answered


def _closed_loop(served: Served, requests: list[bytes], connections: int, seconds: float) -> dict[str, float]:
    """Let each connection ask again as soon as it is answered; return rows a second and the p95 of what it waited."""
    took: list[list[int]] = [[] for _ in range(connections)]
    until = time.monotonic_ns() + int(seconds * 1e9)

    def ask(number: int) -> None:
        with closing(socket.create_connection(("127.0.0.1", served.port), timeout=30)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            i = number
            while (start := time.monotonic_ns()) < until:
                _exchange(connection, requests[i % len(requests)])
                took[number].append(time.monotonic_ns() - start)
                i += connections

    with step(f"{connections} connections for {seconds:g} s"):
        _in_threads(ask, connections)
    waited = np.array([ns for of_one in took for ns in of_one], np.int64)
    return {"rows_per_s": round(waited.size / seconds), "p95_ms": _quantiles(waited)["p95_ms"]}


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send a request, and return the body of a 200; nothing for any other status."""
    connection.sendall(request)
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _more(connection)
    head, body = received[:end].lower(), received[end + 4 :]
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    while len(body) < length:
        body += _more(connection)
    return body if head.startswith(b"http/1.1 200 ") else b""


def _more(connection: socket.socket) -> bytes:
    if not (chunk := connection.recv(1 << 16)):
        raise MeasurementFailed("the server closed a connection")
    return chunk


def _in_threads(ask: Callable[[int], None], n: int) -> None:
    def first_of_all(number: int) -> None:
        with suppress(PermissionError):
            os.nice(-10)  # of this thread alone: whoever measures would be on another machine
        ask(number)

    threads = [threading.Thread(target=first_of_all, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _differing(served: Served, bodies: list[bytes]) -> int:
    """Count the answers that aren't, bit for bit, what the worker's scorer gives for the same row."""
    n = len(served.X)
    of_rules = np.zeros(n, np.int8), np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
    scores = Scorer(served.bundle).score(Rows(np.arange(n), served.X, *of_rules))
    assert scores.probabilities is not None
    expected = [
        Answer(CLASSES[code], risk, confidence, dict(zip(CLASSES, p, strict=True)), served.bundle.version)
        for code, risk, confidence, p in zip(
            scores.code.tolist(), scores.risk.tolist(), scores.confidence.tolist(), scores.probabilities.tolist(),
            strict=True,
        )
    ]  # fmt: skip
    decode = msgspec.json.Decoder(Answer).decode
    return sum(decode(body) != expected[i % n] for i, body in enumerate(bodies))


def _quantiles(ns: Int64s) -> dict[str, float]:
    values = np.percentile(ns, list(_QUANTILES.values())) / 1e6
    return {name: round(float(value), 2) for name, value in zip(_QUANTILES, values, strict=True)}
