"""What keeps the language model's bill bounded: a budget, one call a node and class, and circuits. All shared.

Each is an item of the insights table, so that however many Lambdas run, they share one budget and one memory. Without
the table there is no call: a limit that can't be read has been reached.
"""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from aws_lambda_powertools.utilities.circuit_breaker import CircuitBreakerConfig, CircuitTransition, circuit_breaker

from lambda_adapter.insights import met
from lambda_adapter.scoring import breaker_store

Called = TypeVar("Called", bound=Callable[..., Any])
Breaker = Callable[[Called], Called]
Clock = Callable[[], float]
"""Returns epoch seconds."""


class CallFailed(Exception):
    """The model could not be asked, or its answer was not one; worth another try later."""


class ModelRefused(Exception):
    """The service refuses this model or this caller, and will until somebody changes the configuration."""


class Budget:
    """Calls that all Lambdas together may make, by minute and by day (UTC).

    A window is the clock's own, so that two minutes' worth may fall into 60 s round its edge.

    Parameters
    ----------
    table
        The insights table, a `boto3` Table resource.
    per_minute, per_day
        Calls at most. Each call is at most two requests, its own and one retry.
    """

    def __init__(self, table: Any, *, per_minute: int = 10, per_day: int = 500, clock: Clock = time.time) -> None:
        self._table, self._clock = table, clock
        self._windows = (_Window("minute", 60, per_minute), _Window("day", 86_400, per_day))
        self._spent: dict[str, int] = {}  # by window, the number of the one that is known to be spent

    @property
    def is_spent(self) -> bool:
        """Whether this process knows of a window that is spent, without asking the table."""
        now = int(self._clock())
        return any(self._spent.get(window.name) == now // window.seconds for window in self._windows)

    def take(self) -> bool:
        """Take one call out of the budget; False where it is spent. Raises botocore's errors."""
        # The minute first: its counter may run ahead of the calls, the day's must not, or refusals would eat the day.
        # Nobody gives a call back: what is known to be spent stays so.
        return not self.is_spent and all(self._take(window) for window in self._windows)

    def _take(self, window: "_Window") -> bool:
        now = int(self._clock())
        start = now - now % window.seconds
        if met(lambda: self._count(window, start)):
            return True
        self._spent[window.name] = now // window.seconds
        return False

    def _count(self, window: "_Window", start: int) -> None:
        self._table.update_item(
            Key={"entity_id": f"llm_budget_{window.name}", "timestamp": datetime.fromtimestamp(start, UTC).isoformat()},
            UpdateExpression="ADD calls :one SET entity_type = :type, expires_at = :expires",
            ConditionExpression="attribute_not_exists(calls) OR calls < :limit",
            ExpressionAttributeValues={
                ":one": 1,
                ":limit": window.limit,
                ":type": "llm_budget",
                ":expires": start + window.seconds + _COUNTERS_KEPT_S,
            },
        )


_COUNTERS_KEPT_S = 7 * 86_400
"""How long a spent window can still be looked at."""


class _Window(NamedTuple):
    name: str
    seconds: int
    limit: int  # calls


class Remembered(NamedTuple):
    """An answer, as JSON, and the stream that it was given about."""

    answer: str
    about: str


class Cache:
    """One call a node and class: who claims a pair may ask, and all others read the answer.

    Parameters
    ----------
    table
        The insights table, a `boto3` Table resource.
    kept_s
        How long an answer is used again.
    claim_s
        How long a pair that was claimed and got no answer is left alone, whatever the reason was.
    """

    def __init__(self, table: Any, *, kept_s: int = 6 * 3600, claim_s: int = 600, clock: Clock = time.time) -> None:
        self._table, self._kept_s, self._claim_s, self._clock = table, kept_s, claim_s, clock

    def read(self, node: str, class_: str) -> Remembered | None:
        """Return what was answered about a node and class, None where nothing was or it has expired."""
        item = self._table.get_item(Key=_key(node, class_)).get("Item", {})
        if "answer" not in item or item["expires_at"] <= self._clock():
            return None
        return Remembered(item["answer"], item["about"])

    def claim(self, node: str, class_: str) -> bool:
        """Return whether the caller is the one to ask about a node and class."""
        now = int(self._clock())
        return met(
            lambda: self._table.put_item(
                Item={**_key(node, class_), "entity_type": "llm_answer", "expires_at": now + self._claim_s},
                ConditionExpression="attribute_not_exists(entity_id) OR expires_at <= :now",
                ExpressionAttributeValues={":now": now},
            )
        )

    def write(self, node: str, class_: str, remembered: Remembered) -> None:
        """Keep an answer for all who ask within `kept_s`."""
        expires = int(self._clock()) + self._kept_s
        item = {**_key(node, class_), "entity_type": "llm_answer", **remembered._asdict(), "expires_at": expires}
        self._table.put_item(Item=item)


def _key(node: str, class_: str) -> dict[str, str]:
    # The digest bounds the key, whatever a node is called.
    return {"entity_id": f"llm_answer_{hashlib.sha256(node.encode()).hexdigest()[:32]}", "timestamp": class_}


def breaker_of(
    dynamodb: Any,
    table_name: str,
    model_id: str,
    *,
    on_transition: Callable[[CircuitTransition], None] | None = None,
) -> Breaker[Any]:
    """Return what puts a call behind two circuits, one for a service that fails and one for a model that is refused.

    The first opens after three `CallFailed` in a row in one process and tries again after a minute; the second at the
    first `ModelRefused`, for an hour. Both are named by the model, so that another one starts afresh.
    Powertools takes a circuit that it can't read as closed; the budget, which fails closed, is asked after it.
    """
    store = breaker_store(dynamodb, table_name)

    def circuit(name: str, threshold: int, timeout_s: int, counted: type[Exception]) -> Breaker[Any]:
        config = CircuitBreakerConfig(
            failure_threshold=threshold, recovery_timeout=timeout_s, success_threshold=1, handled_exceptions=counted
        )
        return circuit_breaker(f"{name} {model_id}", store, on_transition=on_transition, config=config)

    failing = circuit("bedrock", 3, 60, CallFailed)
    refused = circuit("bedrock model", 1, 3600, ModelRefused)
    return lambda call: refused(failing(call))
