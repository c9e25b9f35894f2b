"""The dead-letter topic: the bytes of a record that no retry mends, with where it came from and why as headers.

aiokafka is imported by the first dead letter: a Lambda that sees none never pays for it.
"""

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lambda_adapter.records import KafkaRecord, RecordRefused
from streams.contract import LinkcastError

if TYPE_CHECKING:
    from aiokafka.abc import AbstractTokenProvider

DELIVERED_WITHIN_S = 8.0


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
        failed: list[BaseException] = []
        # A thread of its own: whoever invoked the handler may have an event loop running in this one.
        thread = threading.Thread(target=self._run, args=(letters, failed), name="dead letters")
        thread.start()
        thread.join()
        if failed:
            raise DeadLetterUndelivered(
                f"{len(letters)} dead letters to {self._topic} at {self._arguments['bootstrap_servers']}: "
                f"{failed[0] or type(failed[0]).__name__}. Is the topic there, and may this function write to it?"
            ) from failed[0]

    def _run(self, letters: Sequence[DeadLetter], failed: list[BaseException]) -> None:
        from aiokafka.errors import KafkaError

        try:
            asyncio.run(asyncio.wait_for(self._deliver(letters), self._seconds))
        except (KafkaError, OSError, TimeoutError) as error:
            failed.append(error)

    async def _deliver(self, letters: Sequence[DeadLetter]) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(
            **self._client_arguments(),
            acks="all",
            request_timeout_ms=int(self._seconds * 1000),
            max_request_size=6 * 1024 * 1024,  # all that an invocation can bring
        )
        # A new connection each time: one kept open would be dead after the environment was frozen for a while.
        async with producer:
            sent = [
                await producer.send(self._topic, letter.record.value, key=letter.record.key, headers=headers_of(letter))
                for letter in letters
            ]
            await asyncio.gather(*sent)

    def _client_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = dict(self._arguments)
        if self._arguments["security_protocol"].endswith("SSL"):
            import ssl

            arguments["ssl_context"] = ssl.create_default_context()
        if self._sasl_mechanism:
            arguments |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _msk_tokens()}
        return arguments


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers: reason, detail and the record's coordinates, by which a repeated dead letter is known."""
    record, why = letter
    return [
        ("reason", why.reason.encode()),
        ("detail", why.detail.encode()),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
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
