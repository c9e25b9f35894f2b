"""The dead-letter topic: the bytes of a record that no retry mends, with where it came from and why as headers.

aiokafka is imported by the first dead letter: a Lambda that sees none never pays for it.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_adapter.records import KafkaRecord, RecordRefused
from streams.contract import LinkcastError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer
    from aiokafka.abc import AbstractTokenProvider

DELIVERED_WITHIN_S = 8.0
STOPPED_WITHIN_S = 1.0
VALUE_BYTES_KEPT = 900 * 1024
"""A broker takes 1 MiB where nobody says otherwise: a letter that it refused would come again for ever."""


class DeadLetterUndelivered(LinkcastError):
    """The dead-letter topic did not take a record in time: it comes again, rather than being lost."""


class DeadLetter(NamedTuple):
    """A refused record."""

    record: KafkaRecord
    why: RecordRefused


class DeadLetters:
    """Sends dead letters to one topic.

    Parameters
    ----------
    topic, bootstrap
        Where to; several addresses are separated by commas.
    security_protocol, sasl_mechanism
        As in `settings.Settings`; of the SASL mechanisms AWS_MSK_IAM alone, as a Lambda has a role and no password.
    seconds
        A batch of dead letters that is not acknowledged within this fails whole.
    """

    def __init__(
        self,
        topic: str,
        bootstrap: str,
        *,
        security_protocol: str = "PLAINTEXT",
        sasl_mechanism: str | None = None,
        seconds: float = DELIVERED_WITHIN_S,
    ) -> None:
        self._topic, self._seconds = topic, seconds
        self._arguments = {"bootstrap_servers": bootstrap, "security_protocol": security_protocol}
        self._sasl_mechanism = sasl_mechanism

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return once all are acknowledged by all replicas. Raises `DeadLetterUndelivered`."""
        if not letters:
            return
        # A thread of its own: whoever invoked the handler may have an event loop running in this one.
        with ThreadPoolExecutor(1, thread_name_prefix="dead letters") as thread:
            error = thread.submit(self._delivery_error, letters).result()
        if error:
            raise DeadLetterUndelivered(
                f"{len(letters)} dead letters to {self._topic} at {self._arguments['bootstrap_servers']}: "
                f"{str(error) or type(error).__name__}. Is the topic there, and may this function write to it?"
            ) from error

    def _delivery_error(self, letters: Sequence[DeadLetter]) -> Exception | None:
        from aiokafka.errors import KafkaError

        try:
            asyncio.run(asyncio.wait_for(self._deliver(letters), self._seconds))
        except (KafkaError, OSError, TimeoutError) as error:
            return error
        return None

    async def _deliver(self, letters: Sequence[DeadLetter]) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(
            **self._client_arguments(),
            acks="all",
            request_timeout_ms=int(self._seconds * 1000),
            max_request_size=VALUE_BYTES_KEPT + 64 * 1024,
        )
        # A new connection each time: one kept open would be dead after the environment was frozen for a while.
        try:
            await producer.start()
            sent = [
                await producer.send(self._topic, value_of(letter), key=letter.record.key, headers=headers_of(letter))
                for letter in letters
            ]
            await asyncio.gather(*sent)
        finally:
            await _stop(producer)

    def _client_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = dict(self._arguments)
        if self._arguments["security_protocol"].endswith("SSL"):
            import ssl

            arguments["ssl_context"] = ssl.create_default_context()
        if self._sasl_mechanism:
            arguments |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _msk_tokens()}
        return arguments


async def _stop(producer: "AIOKafkaProducer") -> None:
    from streams.inside_aiokafka import abandon

    # aiokafka 0.14 would flush for ever what nobody takes.
    try:
        await asyncio.wait_for(producer.stop(), STOPPED_WITHIN_S)
    except TimeoutError:
        await abandon(producer, seconds=STOPPED_WITHIN_S)


def value_of(letter: DeadLetter) -> bytes | None:
    """Return the record's bytes, cut where they are too many; aiokafka sends no tombstone without key, so b"" there."""
    record = letter.record
    if record.value is None:
        return None if record.key else b""
    return record.value[:VALUE_BYTES_KEPT]


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers: reason, detail and the record's coordinates, by which a repeated dead letter is known.

    `bytes` is the length of the record's value, of which the dead letter may hold less.
    """
    record, why = letter
    return [
        ("reason", why.reason.encode()),
        ("detail", why.detail.encode()),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
        ("bytes", str(len(record.value or b"")).encode()),
    ]


def _msk_tokens() -> "AbstractTokenProvider":
    from aiokafka.abc import AbstractTokenProvider
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

    class MskTokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped here
        async def token(self) -> str:
            region = os.environ["AWS_REGION"]  # the Lambda runtime sets it
            signed, _expires_ms = await asyncio.to_thread(MSKAuthTokenProvider.generate_auth_token, region)
            return str(signed)

    return MskTokens()
