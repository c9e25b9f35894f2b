"""What happened in an event source since it began, as plain numbers."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Counts of one `EventSource`; records are counted, unless the name says otherwise."""

    read: int = 0
    filtered: int = 0  # skipped for good by FilterCriteria
    invocations: int = 0  # of the function, retries included
    executions: int = 0  # records handed to the function, repeats included
    settled: int = 0  # the function succeeded with them
    partial_failures: int = 0  # invocations that reported failed records
    function_errors: int = 0  # invocations: exception, exit, time-out, malformed response
    time_outs: int = 0  # of the function errors
    malformed_responses: int = 0  # of the function errors
    bisections: int = 0  # batches split in two
    retries_exhausted: int = 0
    expired: int = 0  # older than MaximumRecordAgeInSeconds
    too_large: int = 0  # alone above what Lambda takes
    kept_on_failure: int = 0  # of those given up: taken by the on-failure destination
    on_failure_errors: int = 0  # attempts at the destination that failed
    commits: int = 0
    restarts: int = 0  # sessions that Kafka ended

    @property
    def given_up(self) -> int:
        """Records that the function never succeeded with."""
        return self.retries_exhausted + self.expired + self.too_large

    @property
    def discarded(self) -> int:
        """Records given up with no destination to keep them."""
        return self.given_up - self.kept_on_failure
