"""The settings of an event source mapping, by AWS' names and within AWS' limits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from lambda_adapter.event_source.filters import FilterCriteria

StartingPosition = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
ResponseType = Literal["ReportBatchItemFailures"]

DEFAULT_WINDOW_S = 0.5
RETRIES_WITH_DESTINATION = 10
"""What AWS makes of infinite retries as soon as there is an on-failure destination."""


class OptionsRefused(ValueError):
    """A setting is outside what AWS takes; says which, and what it takes."""


class TopicMissing(Exception):
    """A topic to read or to write to isn't there."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One Kafka event source mapping, as CreateEventSourceMapping takes it, in snake case.

    Parameters
    ----------
    batch_size
        Records of one invocation at most, 1 to 10,000.
    maximum_batching_window_in_seconds
        How long a batch waits for more, 0 to 300; None is AWS' default of 500 ms.
    starting_position, starting_position_timestamp
        Where a group with no committed offset begins; the second in seconds since the epoch, for AT_TIMESTAMP.
    function_response_types
        With "ReportBatchItemFailures" the function's answer names what failed; without, the answer is not read.
    bisect_batch_on_function_error
        Split a failed batch in two; splitting uses up no retry.
    maximum_retry_attempts
        -1 (for ever) or 0 to 10,000, not counting the first attempt.
    maximum_record_age_in_seconds
        -1 (any age) or 60 to 604,800, by the record's timestamp.
    filter_criteria
        What the function is to see; everything else is skipped for good.

    Examples
    --------
    >>> Options.from_aws({"BatchSize": 50, "BisectBatchOnFunctionError": True}).batch_size
    50
    >>> Options(batch_size=20_000)
    Traceback (most recent call last):
    lambda_adapter.event_source.options.OptionsRefused: BatchSize 20000: AWS takes 1 to 10,000
    """

    batch_size: int = 100
    maximum_batching_window_in_seconds: int | None = None
    starting_position: StartingPosition = "TRIM_HORIZON"
    starting_position_timestamp: float | None = None
    function_response_types: tuple[ResponseType, ...] = ()
    bisect_batch_on_function_error: bool = False
    maximum_retry_attempts: int = -1
    maximum_record_age_in_seconds: int = -1
    filter_criteria: FilterCriteria | None = None

    def __post_init__(self) -> None:
        _within("BatchSize", self.batch_size, 1, 10_000)
        if self.maximum_batching_window_in_seconds is not None:
            _within("MaximumBatchingWindowInSeconds", self.maximum_batching_window_in_seconds, 0, 300)
        if self.maximum_retry_attempts != -1:
            _within("MaximumRetryAttempts", self.maximum_retry_attempts, 0, 10_000, or_else="-1 or ")
        if self.maximum_record_age_in_seconds != -1:
            _within("MaximumRecordAgeInSeconds", self.maximum_record_age_in_seconds, 60, 604_800, or_else="-1 or ")
        self._check_starting_position()
        for name in self.function_response_types:
            if name not in get_args(ResponseType):
                raise OptionsRefused(f"FunctionResponseTypes {name!r}: AWS knows {', '.join(get_args(ResponseType))}")

    def _check_starting_position(self) -> None:
        if self.starting_position not in get_args(StartingPosition):
            known = ", ".join(get_args(StartingPosition))
            raise OptionsRefused(f"StartingPosition {self.starting_position!r}: AWS takes one of {known}")
        if (self.starting_position == "AT_TIMESTAMP") != (self.starting_position_timestamp is not None):
            raise OptionsRefused(
                f"StartingPosition {self.starting_position} with StartingPositionTimestamp "
                f"{self.starting_position_timestamp}: give a time with AT_TIMESTAMP, and with nothing else"
            )

    @classmethod
    def from_aws(cls, mapping: Mapping[str, Any]) -> Self:
        """Return the options that a CreateEventSourceMapping request means. Raises `OptionsRefused` for an unknown key.

        Keys that say where to read and what to run (`Topics`, `FunctionName` and the like) are for `EventSource`.
        """
        values = {_snake(key): value for key, value in mapping.items() if key not in _NOT_HERE}
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise OptionsRefused(f"{', '.join(sorted(unknown))}: no setting of a Kafka event source that works here")
        if criteria := values.get("filter_criteria"):
            values["filter_criteria"] = FilterCriteria.from_aws(criteria)
        values["function_response_types"] = tuple(values.get("function_response_types") or ())
        return cls(**values)

    @property
    def window_s(self) -> float:
        """How long a batch waits for more records, s."""
        given = self.maximum_batching_window_in_seconds
        return DEFAULT_WINDOW_S if given is None else float(given)

    @property
    def reports_item_failures(self) -> bool:
        """Whether the function's answer is read."""
        return "ReportBatchItemFailures" in self.function_response_types

    def retries_max(self, *, has_destination: bool) -> int | None:
        """Return how often a batch is tried again, None for ever."""
        if self.maximum_retry_attempts >= 0:
            return self.maximum_retry_attempts
        return RETRIES_WITH_DESTINATION if has_destination else None


# fmt: off
_NOT_HERE = frozenset({
    "Topics", "FunctionName", "EventSourceArn", "SelfManagedEventSource", "Enabled", "DestinationConfig",
    "AmazonManagedKafkaEventSourceConfig", "SelfManagedKafkaEventSourceConfig", "SourceAccessConfigurations",
    "ProvisionedPollerConfig", "LoggingConfig", "MetricsConfig", "KMSKeyArn", "Tags",
})
# fmt: on


def _within(name: str, value: object, low: int, high: int, *, or_else: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionsRefused(f"{name} {value}: AWS takes {or_else}{low:,} to {high:,}")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
