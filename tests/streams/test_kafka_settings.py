"""Connection settings become aiokafka's arguments, secrets stay secret, and a broker that is away is waited for."""

import asyncio
import base64
import contextlib
import logging
import socket
import ssl

import certifi
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaTimeoutError

from streams import kafka as streams_kafka
from streams.group.outlet import ExactlyOnce
from streams.group.state_topic import StateTopic
from streams.kafka import KafkaRefused, KafkaSettings, KafkaUnreachable, await_broker, why_no_answer


def test_a_plain_cluster_needs_nothing_but_its_addresses():
    assert KafkaSettings(bootstrap="a:1,b:2").client_arguments() == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
    }


def test_the_password_reaches_the_client_and_no_repr():
    kafka = KafkaSettings(
        bootstrap="a:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        username="linkcast",
        password="correct horse",
    )

    assert "correct horse" not in repr(kafka)
    arguments = kafka.client_arguments()
    assert arguments["sasl_plain_password"] == "correct horse"
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert arguments["ssl_context"].verify_mode is ssl.CERT_REQUIRED


async def test_msk_tokens_are_signed_for_the_region_and_taken_by_the_client(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    kafka = KafkaSettings(
        bootstrap="a:1", security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM", region="eu-central-1"
    )

    arguments = kafka.client_arguments()
    token = await arguments["sasl_oauth_token_provider"].token()

    assert arguments["sasl_mechanism"] == "OAUTHBEARER"
    assert b"kafka.eu-central-1.amazonaws.com" in base64.urlsafe_b64decode(token + "==")
    await AIOKafkaAdminClient(**arguments).close()  # a client refuses arguments it doesn't know


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"security_protocol": "TLS"}, "choose one of PLAINTEXT, SSL"),
        ({"security_protocol": "SASL_SSL"}, "choose one of PLAIN, SCRAM"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u"}, "needs a username and"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM"}, "AWS region"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM", "region": "r"}, "SASL_SSL"),
    ],
)
def test_settings_that_can_never_connect_are_refused_with_the_fix(settings, fix):
    with pytest.raises(KafkaRefused, match=fix):
        KafkaSettings(bootstrap="a:1", **settings)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:notaport", "127.0.0.1:99999", "a:0", "a:", "", "::1:9092", "kafka://a:1"]
)
def test_an_address_that_is_none_is_refused_with_the_form_of_one(address):
    with pytest.raises(KafkaRefused, match=f"Kafka at {address!r}: give host:port"):
        KafkaSettings(bootstrap=f"a:1,{address}")


def test_an_address_may_be_ipv6_and_stand_after_a_space():
    assert KafkaSettings(bootstrap="[::1]:9092, kafka-1.example:65535").bootstrap


def test_an_unreadable_tls_file_is_named(tmp_path):
    no_pem = tmp_path / "ca.pem"
    no_pem.write_text("not a certificate")

    assert (
        "ssl_context" in KafkaSettings(bootstrap="a:1", security_protocol="SSL", ca=certifi.where()).client_arguments()
    )
    for ca in (no_pem, tmp_path / "absent.pem"):
        with pytest.raises(KafkaRefused, match=ca.name):
            KafkaSettings(bootstrap="a:1", security_protocol="SSL", ca=ca).client_arguments()


@pytest.fixture
def port():
    """A port of 127.0.0.1 that is ours and refuses connections until a server is started on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def at(port):
    return f"127.0.0.1:{port.getsockname()[1]}"


@pytest.fixture
def said():
    handler = Said()
    logging.getLogger("streams.kafka").addHandler(handler)
    yield handler
    logging.getLogger("streams.kafka").removeHandler(handler)


async def test_a_broker_that_never_comes_is_given_up_after_the_time_allowed(port):
    with pytest.raises(KafkaUnreachable, match=rf"{at(port)} after 0 s .*LINKCAST_BOOTSTRAP"):
        await await_broker(KafkaSettings(bootstrap=at(port)), seconds=0)


async def test_a_broker_that_is_away_is_waited_for_said_so_once_and_gone_on_with(kafka, port, said):
    address = at(port)
    waiting = asyncio.create_task(await_broker(KafkaSettings(bootstrap=address)))
    await said.something.wait()
    assert not waiting.done()

    async with forwarding(port, to=kafka.bootstrap):
        await waiting

    assert said.lines[0].startswith(f"waiting for Kafka at {address} (")
    assert said.lines[0].endswith("start it, or mend --bootstrap or --security-protocol")
    assert said.lines[1:] == [f"Kafka at {address} is there"]


async def test_whoever_waits_on_says_so_again(port, said, monkeypatch):
    monkeypatch.setattr(streams_kafka, "SAY_EVERY_S", 0)
    waiting = asyncio.create_task(await_broker(KafkaSettings(bootstrap=at(port))))
    for _ in range(2):
        await said.something.wait()
        said.something.clear()
    waiting.cancel()


@pytest.fixture
def names(monkeypatch):
    """Hosts, and what the name server says of them: nothing of those that are left out."""
    answers = {}

    def getaddrinfo(host, *_arguments, **_more):
        host.encode("idna")  # raises for what can't be a name, as the real one does
        if error := answers.get(host, socket.EAI_NONAME):
            raise socket.gaierror(error, "it says")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(streams_kafka, "_known_hosts", set())
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.mark.parametrize("bootstrap", ["nope:1", "nope:1,nowhere:2", "a..b:1"])
async def test_hosts_of_which_none_has_an_address_are_refused_and_not_waited_for(names, bootstrap):
    with pytest.raises(KafkaRefused, match=rf"Kafka at {bootstrap}: no host has that name"):
        await await_broker(KafkaSettings(bootstrap=bootstrap))


@pytest.mark.parametrize("nowhere", [{}, {"kafka-2": socket.EAI_AGAIN}], ids=["one of two", "a silent name server"])
async def test_a_host_that_may_have_an_address_is_waited_for(names, nowhere):
    names |= {"kafka-2": 0} | nowhere

    with pytest.raises(KafkaUnreachable):
        await await_broker(KafkaSettings(bootstrap="kafka-1:1,kafka-2:1"), seconds=0)


async def test_a_name_that_goes_while_its_cluster_is_away_is_waited_for(names, said):
    kafka = KafkaSettings(bootstrap="kafka-1:1")
    names["kafka-1"] = 0
    assert await why_no_answer(kafka)
    del names["kafka-1"]

    with pytest.raises(KafkaUnreachable, match="it says"):
        await await_broker(kafka, seconds=0)


async def test_sasl_to_a_listener_without_it_is_refused_and_not_waited_for(kafka):
    sasl = KafkaSettings(
        bootstrap=kafka.bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        username="u",
        password="p",
    )

    with pytest.raises(KafkaRefused, match="takes no SASL there: mend the port or --security-protocol"):
        await why_no_answer(sasl)


async def test_one_address_that_answers_is_enough(kafka, port):
    assert await why_no_answer(KafkaSettings(bootstrap=f"{at(port)},{kafka.bootstrap}")) is None


async def test_a_listener_that_is_no_kafka_is_no_answer(port):
    async def hang_up(_reader, writer):
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, sock=port):
        assert await why_no_answer(KafkaSettings(bootstrap=at(port)), timeout_ms=1_000)


@pytest.mark.parametrize("of", ["state", "outputs"])
async def test_a_transaction_coordinator_that_never_answers_is_given_up_with_what_to_mend(of, port, monkeypatch):
    silent = KafkaSettings(bootstrap=at(port))
    fenced = {
        "state": StateTopic(silent, prefix="p.", group="g", partition=3),
        "outputs": ExactlyOnce(silent, prefix="p.", group="g", tp=TopicPartition("p.metrics", 3)),
    }[of]
    monkeypatch.setattr(streams_kafka, "FENCED_WITHIN_S", 0.2)
    hung_up = asyncio.Event()

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(say_nothing, sock=port):
        with pytest.raises(
            KafkaTimeoutError, match=r"coordinator for p\.g(-outputs)?-3 within 0\.2 s.*factor must fit"
        ):
            await fenced.open()
        await fenced.close()
        await hung_up.wait()


class Said(logging.Handler):
    """Collects what is logged, and lets a test wait for the first line."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.something = asyncio.Event()

    def emit(self, record):
        self.lines.append(record.getMessage())
        self.something.set()


@contextlib.asynccontextmanager
async def forwarding(port, *, to):
    """A port that carries bytes to another while it is open: a broker that appears."""
    host, _, to_port = to.rpartition(":")
    connections = set()

    async def carry(reader, writer):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def serve(reader, writer):
        connections.add(asyncio.current_task())
        there_reader, there_writer = await asyncio.open_connection(host, int(to_port))
        await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))

    async with await asyncio.start_server(serve, sock=port):
        yield
        await asyncio.gather(*connections)
