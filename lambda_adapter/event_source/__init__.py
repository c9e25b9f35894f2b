"""AWS Lambda's Kafka event source mapping on this machine: real Kafka in front, a real handler behind.

    source = EventSource(kafka, "orders", "my-group", handler, Options(batch_size=100))
    await source.run(stop)

`kafka` is anything whose `client_arguments()` an aiokafka client takes. docs/lambda.md sets each behaviour beside AWS'.
"""

from lambda_adapter.event_source.counters import Counters
from lambda_adapter.event_source.deliverer import Backoff
from lambda_adapter.event_source.delivery import GivenUp
from lambda_adapter.event_source.event import Origin, Partition, Record
from lambda_adapter.event_source.filters import FilterCriteria, FilterRefused
from lambda_adapter.event_source.function import Function, FunctionFailed, InProcess
from lambda_adapter.event_source.on_failure import Calls, FailureTopic, OnFailure
from lambda_adapter.event_source.options import Options, OptionsRefused, TopicMissing
from lambda_adapter.event_source.source import EventSource

__all__ = [
    "Backoff",
    "Calls",
    "Counters",
    "EventSource",
    "FailureTopic",
    "FilterCriteria",
    "FilterRefused",
    "Function",
    "FunctionFailed",
    "GivenUp",
    "InProcess",
    "OnFailure",
    "Options",
    "OptionsRefused",
    "Origin",
    "Partition",
    "Record",
    "TopicMissing",
]
