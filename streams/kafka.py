"""Where Kafka is and how to speak to it, as the arguments of every aiokafka client.

Importing this needs no Kafka client; most of what is in here does.
"""

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.contract import LinkcastError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
    from aiokafka.abc import AbstractTokenProvider

STOP_SECONDS = 5.0
FENCED_WITHIN_S = 30.0
TRANSACTION_TIMEOUT_MS = 8_000
"""Below the consumer's session, so that a dead owner's transaction never outlives its membership."""
SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "AWS_MSK_IAM")
SAY_EVERY_S = 60.0
_NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_ADDRESS = re.compile(r"(?:[^][:/\s]+|\[[^][/\s]+\])(?::(?P<port>[0-9]{1,5}))?")

log = logging.getLogger(__name__)


class KafkaUnreachable(LinkcastError):
    """No broker answers at the bootstrap addresses."""


class KafkaRefused(LinkcastError):
    """The broker is there and will not have us, or we cannot speak to it with these settings."""


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """Bootstrap addresses and security of one Kafka cluster.

    Parameters
    ----------
    bootstrap
        `host:port`, several separated by commas; an IPv6 address stands in brackets.
    security_protocol, sasl_mechanism
        One of `SECURITY_PROTOCOLS` and of `SASL_MECHANISMS`. AWS_MSK_IAM signs with the ambient AWS credentials
        for `region` and needs SASL_SSL.
    username, password
        For PLAIN and SCRAM. The password is in no repr.
    ca, certificate, key
        PEM files: the authority to trust in place of the system's, and the client's own certificate and key (mTLS).

    Examples
    --------
    >>> KafkaSettings(bootstrap="kafka-1:9092,kafka-2:9092").client_arguments()["bootstrap_servers"]
    'kafka-1:9092,kafka-2:9092'
    """

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    region: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for address in self.bootstrap.split(","):
            match = _ADDRESS.fullmatch(address.strip())
            if not match or not 1 <= int(match["port"] or 9092) <= 65_535:
                shown = address.rpartition("@")[2]  # a name and a password before it are for no log
                raise KafkaRefused(
                    f"Kafka at {shown!r}: give host:port with a port from 1 to 65535, several with commas between"
                )
        if self.security_protocol not in SECURITY_PROTOCOLS:
            raise KafkaRefused(
                f"security protocol {self.security_protocol!r}: choose one of {', '.join(SECURITY_PROTOCOLS)}"
            )
        if self.security_protocol.startswith("SASL"):
            self._check_sasl()

    def _check_sasl(self) -> None:
        if self.sasl_mechanism not in SASL_MECHANISMS:
            raise KafkaRefused(f"SASL mechanism {self.sasl_mechanism!r}: choose one of {', '.join(SASL_MECHANISMS)}")
        if self.sasl_mechanism == "AWS_MSK_IAM":
            if self.security_protocol != "SASL_SSL" or not self.region:
                raise KafkaRefused("AWS_MSK_IAM needs the security protocol SASL_SSL and the cluster's AWS region")
        elif not self.username or not self.password:
            raise KafkaRefused(f"SASL {self.sasl_mechanism} needs a username and a password")

    def client_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that any aiokafka client takes. Raises `KafkaRefused` for a bad file.

        Call it inside the event loop's process and once per client: the token provider keeps no state across forks.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL"):
            arguments |= self._sasl_arguments()
        return arguments

    def _ssl_context(self) -> Any:
        from aiokafka.helpers import create_ssl_context

        try:
            return create_ssl_context(cafile=self.ca, certfile=self.certificate, keyfile=self.key)
        except OSError as error:  # a missing file, or ssl.SSLError for one that is no PEM
            named = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path)
            raise KafkaRefused(f"TLS files {named}: {error}. Give PEM files that this user can read.") from error

    def _sasl_arguments(self) -> dict[str, Any]:
        if self.sasl_mechanism == "AWS_MSK_IAM":
            assert self.region  # checked when the settings were made
            return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _msk_tokens(self.region)}
        return {
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }


def _msk_tokens(region: str) -> "AbstractTokenProvider":
    """Return a provider of signed tokens for one MSK cluster's region (each is valid for 15 minutes)."""
    from aiokafka.abc import AbstractTokenProvider

    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError as error:
        raise KafkaRefused("AWS_MSK_IAM needs the signer: pip install -e '.[msk]' in linkcast's checkout") from error

    class MskTokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped here
        async def token(self) -> str:
            # Signing may ask the instance metadata service for credentials: off the event loop.
            signed, _expires_ms = await asyncio.to_thread(MSKAuthTokenProvider.generate_auth_token, region)
            return str(signed)

    return MskTokens()


async def await_broker(kafka: KafkaSettings, *, seconds: float | None = None) -> None:
    """Return once a broker of the cluster answers; say so (by `logging`) while it is away, and when it is back.

    Waits `seconds`, or for ever where it is None; then raises `KafkaUnreachable`. Wrong credentials or TLS, and names
    of which none has an address, raise `KafkaRefused` at once: waiting mends none of them.
    """
    start = time.monotonic()
    said_at = None
    while (reason := await why_no_answer(kafka)) is not None:
        if await _is_nowhere(kafka):
            raise KafkaRefused(
                f"Kafka at {kafka.bootstrap}: no host has that name ({reason}). Mend --bootstrap or the name server."
            )
        if seconds is not None and time.monotonic() - start >= seconds:
            raise KafkaUnreachable(
                f"no Kafka at {kafka.bootstrap} after {seconds:g} s ({reason}): start it, or set LINKCAST_BOOTSTRAP"
            )
        if said_at is None or time.monotonic() - said_at >= SAY_EVERY_S:
            log.warning(
                "waiting for Kafka at %s (%s): start it, or mend --bootstrap or --security-protocol",
                kafka.bootstrap,
                reason,
            )
            said_at = time.monotonic()
        await asyncio.sleep(0.5)
    if said_at is not None:
        log.warning("Kafka at %s is there", kafka.bootstrap)


async def transactional_producer(kafka: KafkaSettings, transactional_id: str, **arguments: Any) -> "AIOKafkaProducer":
    """Start a producer: whoever had its transactional id before is fenced, and what that one left open is aborted.

    Raises `KafkaTimeoutError` after `FENCED_WITHIN_S`, as aiokafka 0.14 would ask for a coordinator for ever.
    """
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaTimeoutError

    producer = AIOKafkaProducer(
        **kafka.client_arguments(),
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        linger_ms=0,  # a batch that lingers holds up the next of its partition
        **arguments,
    )
    async with contextlib.AsyncExitStack() as unless_started:
        unless_started.push_async_callback(stop_producer, producer)
        try:
            await asyncio.wait_for(producer.start(), FENCED_WITHIN_S)
        except TimeoutError:
            raise KafkaTimeoutError(
                f"no transaction coordinator for {transactional_id} within {FENCED_WITHIN_S:g} s: linkcast needs a "
                "broker with transactions (Kafka's transaction.state.log.replication.factor must fit the brokers)"
            ) from None
        unless_started.pop_all()
    return producer


async def stop_producer(producer: "AIOKafkaProducer") -> None:
    """Stop a producer within seconds, with what it could not deliver.

    With records that nobody takes, as after a fence, aiokafka 0.14's `stop` would flush for ever: its sender is ended.
    """
    from streams.inside_aiokafka import abandon

    try:
        await asyncio.wait_for(producer.stop(), STOP_SECONDS)
    except TimeoutError:
        await abandon(producer, seconds=STOP_SECONDS)


@contextlib.asynccontextmanager
async def consuming(consumer: "AIOKafkaConsumer") -> "AsyncIterator[AIOKafkaConsumer]":
    """Start a consumer for as long as the block runs, and stop it within seconds, whatever its tasks wait for.

    aiokafka 0.14's `stop` awaits tasks that it has cancelled: where one of them waits out an error, it ends with that
    one's `CancelledError`, which would end whoever called it, and leaves its connections open.
    """
    from streams.inside_aiokafka import disconnect

    try:
        await consumer.start()
        yield consumer
    finally:
        stopping = asyncio.ensure_future(consumer.stop())
        await asyncio.wait([stopping], timeout=STOP_SECONDS)
        if stopping.done() and not stopping.cancelled():
            stopping.result()
        else:
            stopping.cancel()
            await disconnect(consumer)


async def read_to_end(
    consumer: "AIOKafkaConsumer", tp: "TopicPartition", *, start: int | None = None, records_max: int | None = None
) -> "AsyncIterator[list[ConsumerRecord[bytes | None, bytes | None]]]":
    """Yield the records of a partition, from `start` or its beginning to where it ends now, `records_max` at a time."""
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    if start is None:
        await consumer.seek_to_beginning(tp)
    else:
        consumer.seek(tp, start)
    # Positions and not offsets of records: markers and compaction leave holes (quix-streams#1017).
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(timeout_ms=200, max_records=records_max)).values():
            yield records


async def why_no_answer(kafka: KafkaSettings, *, timeout_ms: int = 5_000) -> str | None:
    """Ask each bootstrap address for its metadata; return None if one answers with a broker, else the last reason."""
    from streams.inside_aiokafka import collect_hosts

    arguments = kafka.client_arguments()
    del arguments["bootstrap_servers"]
    reason: str | None = "no address given"
    for host, port, _family in collect_hosts(kafka.bootstrap):
        reason = await _why_no_answer_at(host, port, request_timeout_ms=timeout_ms, **arguments)
        if reason is None:
            return None
    return reason


async def _why_no_answer_at(host: str, port: int, **arguments: Any) -> str | None:
    # The bare connection and not a client: a client logs an error for each attempt and hides why it failed.
    from aiokafka.errors import (
        AuthenticationFailedError,
        IllegalSaslStateError,
        KafkaError,
        SaslAuthenticationFailed,
        UnsupportedSaslMechanismError,
    )

    from streams.inside_aiokafka import MetadataRequest, create_conn

    if (unknown := await _why_no_address(host)) is not None:
        return unknown.strerror
    try:
        connection = await create_conn(host, port, **arguments)
    except (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError) as error:
        raise KafkaRefused(f"Kafka at {host}:{port}: {error}. Check mechanism, username and password.") from error
    except IllegalSaslStateError as error:
        raise KafkaRefused(
            f"Kafka at {host}:{port} takes no SASL there: mend the port or --security-protocol"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise KafkaRefused(f"Kafka at {host}:{port}: {error}. Give the authority that signed it (ca).") from error
    except (OSError, KafkaError, TimeoutError) as error:
        return _in_a_word(error)
    try:
        metadata = await connection.send(MetadataRequest([]))
    except (KafkaError, TimeoutError) as error:
        return _in_a_word(error)
    finally:
        connection.close()
    return None if metadata.brokers else "it is starting"


def _in_a_word(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


_known_hosts: set[str] = set()
"""Hosts that had an address while this process ran. Kubernetes takes a name away with its last broker, and gives it
back: such a name is waited for, where one that nobody ever knew is a slip."""


async def _is_nowhere(kafka: KafkaSettings) -> bool:
    """Whether none of the bootstrap hosts has or had an address; a name server that doesn't answer knows nothing."""
    from streams.inside_aiokafka import collect_hosts

    hosts = {host for host, _port, _family in collect_hosts(kafka.bootstrap)}
    whys = [await _why_no_address(host) for host in hosts - _known_hosts]
    return hosts.isdisjoint(_known_hosts) and all(why is not None and why.errno in _NO_ADDRESS for why in whys)


async def _why_no_address(host: str) -> socket.gaierror | None:
    # In a thread and not by the loop: of a look-up that is cancelled, uvloop says the error when nobody asks any more.
    try:
        await asyncio.to_thread(socket.getaddrinfo, host, None)
    except socket.gaierror as error:
        return error
    except UnicodeError:  # no name at all, as "a..b"
        return socket.gaierror(socket.EAI_NONAME, "not a name that a host can have")
    _known_hosts.add(host)
    return None
