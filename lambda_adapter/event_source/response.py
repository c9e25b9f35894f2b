"""A function's partial batch response, read as strictly as it is written down."""

from collections.abc import Mapping, Sequence
from typing import Any

from lambda_adapter.event_source.event import Partition, Record


class MalformedResponse(Exception):
    """The response says nothing that can be acted on; all of its batch counts as failed."""


def lowest_failed(response: Any, batch: Mapping[Partition, Sequence[Record]]) -> dict[Partition, int]:
    """Return the lowest offset that failed of each partition with a failure; raises `MalformedResponse`.

    An empty or null response, or list of failures, is success. An identifier is `{"partition": "topic-number",
    "offset": int}` of a record that was in the batch.
    """
    if response is None or response == {}:
        return {}
    if not isinstance(response, dict):
        raise MalformedResponse(f"a {type(response).__name__} where {{'batchItemFailures': […]}} is wanted")
    failures = response.get("batchItemFailures")
    if failures is None:
        return {}
    if not isinstance(failures, list):
        raise MalformedResponse(f"batchItemFailures is a {type(failures).__name__}, and no list")
    named = {str(partition): partition for partition in batch}
    offsets = {partition: {record.offset for record in records} for partition, records in batch.items()}
    lowest: dict[Partition, int] = {}
    for failure in failures:
        partition, offset = _identified(failure, named)
        if offset not in offsets[partition]:
            raise MalformedResponse(f"{partition}@{offset} was not in the batch")
        lowest[partition] = min(offset, lowest.get(partition, offset))
    return lowest


def _identified(failure: Any, named: Mapping[str, Partition]) -> tuple[Partition, int]:
    identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
    if not isinstance(identifier, dict):
        raise MalformedResponse(f"{failure!r} has no itemIdentifier of partition and offset")
    partition, offset = identifier.get("partition"), identifier.get("offset")
    if not isinstance(partition, str) or partition not in named:
        raise MalformedResponse(f"partition {partition!r} was not in the batch: it is written topic-number")
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise MalformedResponse(f"{partition}: offset {offset!r} is no integer")
    return named[partition], offset
