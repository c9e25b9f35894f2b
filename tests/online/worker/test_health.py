"""Health says whether the worker's loop comes round, and a port that is taken is one clear line."""

import contextlib
import json
import select
import socket
import threading
import urllib.error
import urllib.request

import pytest

from online.worker.health import STUCK_AFTER_S, PortTaken, serve


def healthz(port: int) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(("idle_s", "status"), [(0.0, 200), (STUCK_AFTER_S - 0.1, 200), (STUCK_AFTER_S, 503)])
def test_a_loop_that_has_not_come_round_for_a_minute_is_unhealthy(idle_s, status) -> None:
    with serve("127.0.0.1", 0, idle_s=lambda: idle_s, model=lambda: "m1") as port:
        found = healthz(port)

    assert found == (status, {"ok": status == 200, "idle_s": round(idle_s, 1), "model": "m1"})


def test_whoever_connects_and_says_nothing_holds_nobody_up() -> None:
    with (
        serve("127.0.0.1", 0, idle_s=lambda: 0.0, model=lambda: "m1") as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert healthz(port)[0] == 200


def test_whoever_says_a_byte_now_and_then_is_hung_up_on_all_the_same(capfd) -> None:
    with (
        serve("127.0.0.1", 0, idle_s=lambda: 0.0, model=lambda: "m1", request_s_max=0.1) as port,
        socket.create_connection(("127.0.0.1", port)) as slow,
    ):
        slow.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        sent = 0
        while not select.select([slow], [], [], 0.01)[0]:
            slow.sendall(b"x")
            sent += 1
            assert sent < 1_000  # 10 s and more
        with contextlib.suppress(ConnectionError):
            assert slow.recv(1) == b""

    assert capfd.readouterr().err == ""


def test_whoever_does_not_read_an_answer_is_hung_up_on(capfd) -> None:
    before = {*threading.enumerate()}
    with (
        serve("127.0.0.1", 0, idle_s=lambda: 0.0, model=lambda: "m" * (1 << 24), request_s_max=0.1) as port,
        socket.create_connection(("127.0.0.1", port)) as deaf,
    ):
        deaf.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert deaf.recv(1) == b"H"
        (serving,) = (one for one in {*threading.enumerate()} - before if "process_request_thread" in one.name)
        serving.join()  # for ever, if it were not

    assert capfd.readouterr().err == ""


def test_of_more_connections_than_are_served_at_once_the_oldest_are_hung_up_on() -> None:
    with (
        serve("127.0.0.1", 0, idle_s=lambda: 0.0, model=lambda: "m1", connections_max=2) as port,
        contextlib.ExitStack() as opened,
    ):
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)
        ]  # fmt: skip
        assert healthz(port)[0] == 200
        assert [one.recv(1) for one in silent[:48]] == [b""] * 48


def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with (
            pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port}: .*--health-port"),
            serve("127.0.0.1", port, idle_s=lambda: 0, model=lambda: "m1"),
        ):
            pass


def test_a_host_that_is_not_of_this_machine_is_told_to_be_mended() -> None:
    with (
        pytest.raises(PortTaken, match=r"192\.0\.2\.1:0: .*Mend --health-host"),
        serve("192.0.2.1", 0, idle_s=lambda: 0, model=lambda: "m1"),
    ):
        pass
