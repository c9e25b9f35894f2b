"""Who scores a record: its own prediction, else the SageMaker endpoint, else a language model, else the rules.

The endpoint stands behind a circuit breaker whose state is in DynamoDB, so that all Lambdas stop asking one that is
down: calls stay bounded, and the rules, which can't fail, leave no record unscored.
"""

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from aws_lambda_powertools.utilities.circuit_breaker import (
    CircuitBreakerConfig,
    CircuitBreakerOpenError,
    CircuitTransition,
    circuit_breaker,
)
from aws_lambda_powertools.utilities.circuit_breaker.persistence import (
    CircuitBreakerDynamoDBPersistence,
    CircuitBreakerPersistenceLayer,
)
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from lambda_adapter.records import Change, Score, Unscored
from lambda_adapter.rules import load_rules, rule_score
from streams.contract import LinkcastError

OPENED_FROM_RISK = 60.0
"""As the worker's hysteresis, of which a record scored here has only this edge."""
EPISODE_MS = 60 * 60 * 1000

By = Literal["record", "endpoint", "bedrock", "rules"]
Endpoint = Callable[[Unscored], Score]


class EndpointFailed(LinkcastError):
    """The endpoint answered, and not with a score."""


class Scored(NamedTuple):
    """A record's score as a change, and who gave it."""

    change: Change
    by: By

    @property
    def is_fallback(self) -> bool:
        """Whether neither the worker nor the endpoint scored it."""
        return self.by in ("bedrock", "rules")


class LanguageModel(Protocol):
    """Scores what nothing else could; None where it may not or can't."""

    def score(self, record: Unscored, left_ms: int | None) -> Score | None: ...


class Scorer:
    """The order of scoring behind the record's own prediction."""

    def __init__(
        self,
        *,
        endpoint: Endpoint | None = None,
        language_model: LanguageModel | None = None,
    ) -> None:
        self._endpoint, self._language_model = endpoint, language_model
        self._rules = load_rules()

    def score(self, record: Unscored, left_ms: int | None = None) -> Scored:
        """Return a score from the first in the order that has one; the rules always have.

        `left_ms` is what is left of the invocation: a language model is asked only if it can answer within it.
        """
        if self._endpoint:
            try:
                return _scored(record, self._endpoint(record), "endpoint")
            except (CircuitBreakerOpenError, BotoCoreError, ClientError, EndpointFailed):
                pass  # counted: the metric of fallbacks is of who scored
        if self._language_model and (score := self._language_model.score(record, left_ms)):
            return _scored(record, score, "bedrock")
        return _scored(record, rule_score(self._rules, record.known), "rules")


def _scored(record: Unscored, score: Score, by: By) -> Scored:
    is_open = score.risk >= OPENED_FROM_RISK
    # No worker follows this stream's risk: an hour is its episode, and each band of risk in it is announced once.
    start = record.ts // EPISODE_MS * EPISODE_MS
    return Scored(
        Change(
            stream_id=record.stream_id,
            ts=record.ts,
            src=record.src,
            features=record.features,
            class_=score.class_,
            risk=score.risk,
            confidence=score.confidence,
            model=score.model,
            probabilities=score.probabilities,
            change="opened" if is_open else None,
            episode=f"{record.stream_id}@{start}" if is_open else None,
        ),
        by,
    )


def sagemaker_endpoint(
    client: Any,
    name: str,
    store: CircuitBreakerPersistenceLayer,
    on_transition: Callable[[CircuitTransition], None] | None = None,
) -> Endpoint:
    """Return the endpoint as a function behind its breaker.

    It raises `EndpointFailed`, botocore's errors, or `CircuitBreakerOpenError` without asking. After 5 failures in a
    row it is left alone for 30 s; then one Lambda of all tries it.
    """

    @circuit_breaker(
        name=f"endpoint-{name}",
        persistence_store=store,
        config=CircuitBreakerConfig(success_threshold=1),
        on_transition=on_transition,
    )
    def invoke(record: Unscored) -> Score:
        answer = client.invoke_endpoint(
            EndpointName=name,
            ContentType="application/json",
            Accept="application/json",
            Body=json.dumps({"features": record.known}, allow_nan=False),
        )
        try:
            return Score.model_validate_json(answer["Body"].read())
        except ValidationError as error:
            raise EndpointFailed(
                f"endpoint {name} answered with no score ({error.error_count()} faults): is it linkcast's container?"
            ) from None

    return invoke  # type: ignore[no-any-return]


def breaker_store(client: Any, table: str) -> CircuitBreakerDynamoDBPersistence:
    """Return the circuits' state as items of the table of insights."""
    return CircuitBreakerDynamoDBPersistence(
        table_name=table,
        key_attr="entity_id",
        static_pk_value="circuit_breaker",
        sort_key_attr="timestamp",
        expiry_attr="expires_at",
        boto3_client=client,
    )
