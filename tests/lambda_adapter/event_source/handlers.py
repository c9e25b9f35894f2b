"""A handler that writes down what it was given and fails by rule, and the answers that report failures."""

import base64
from collections import defaultdict


def values_of(event):
    """Return the values of an event by partition key, in order."""
    return {key: [base64.b64decode(record["value"]) for record in each] for key, each in event["records"].items()}


class Handler:
    """Writes down what it was given, and fails as its `fault` says: it takes an event and may raise or answer."""

    def __init__(self, fault=lambda event: None):
        self.fault, self.events, self.seen = fault, [], defaultdict(list)

    def __call__(self, event, context):
        self.events.append(event)
        for key, records in event["records"].items():
            self.seen[key] += [record["offset"] for record in records]
        return self.fault(event)

    def attempts_with(self, value):
        """Return the sizes of the batches that held a value, in order."""
        sizes = []
        for event in self.events:
            values = [value for each in values_of(event).values() for value in each]
            if value in values:
                sizes.append(len(values))
        return sizes


def failures(event, *values):
    """Return the partial batch response of the records that have one of these values."""
    return {
        "batchItemFailures": [
            {"itemIdentifier": {"partition": key, "offset": record["offset"]}}
            for key, records in event["records"].items()
            for record in records
            if base64.b64decode(record["value"]) in values
        ]
    }
