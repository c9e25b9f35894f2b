"""Carries a batch to its end: invokes the function until each record is settled or given up, and pauses in between."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from lambda_adapter.event_source.batcher import payload_bytes
from lambda_adapter.event_source.counters import Counters
from lambda_adapter.event_source.delivery import Batch, GivenUp, Policy, Verdict, size, without_expired
from lambda_adapter.event_source.event import PAYLOAD_BYTES_MAX, Origin
from lambda_adapter.event_source.function import Function, FunctionFailed
from lambda_adapter.event_source.on_failure import OnFailure
from lambda_adapter.event_source.options import Options
from lambda_adapter.event_source.response import MalformedResponse, lowest_failed

log = logging.getLogger(__name__)


class Backoff(NamedTuple):
    """The pause after a failure, s: doubled by each one more in a row up to a bound."""

    first_s: float = 0.2
    s_max: float = 30.0

    def after(self, failures: int) -> float:
        """Return the pause after so many failures in a row, s.

        >>> [Backoff(0.5, 3.0).after(n) for n in (1, 2, 3, 4, 5_000)]
        [0.5, 1.0, 2.0, 3.0, 3.0]
        """
        return min(self.s_max, self.first_s * 2.0 ** min(failures - 1, 60))


class Deliverer:
    """Delivers batches, `concurrency` invocations at once.

    Set `leaving` and every delivery ends behind the invocation that it waits for; what is not settled then is read
    again by whoever has the partition next.
    """

    def __init__(
        self, function: Function, options: Options, origin: Origin, on_failure: OnFailure | None, counters: Counters, *,
        concurrency: int, backoff: Backoff,
    ) -> None:  # fmt: skip
        self._function, self._options, self._origin = function, options, origin
        self._on_failure, self._counters, self._backoff = on_failure, counters, backoff
        self._policy = Policy(
            retries_max=options.retries_max(has_destination=on_failure is not None),
            bisect=options.bisect_batch_on_function_error,
        )
        self._overhead_bytes = origin.overhead_bytes(())
        self.slots = asyncio.Semaphore(concurrency)
        self.leaving = asyncio.Event()

    async def deliver(self, batch: Batch) -> AsyncIterator[Sequence[Batch]]:
        """Deliver a batch; yield what is left of it, in order, after each step. The caller has acquired a slot."""
        left, failures = deque([batch]), 0
        has_slot = True
        while left and not self.leaving.is_set():
            if not has_slot:
                await self.slots.acquire()
            try:
                if self.leaving.is_set():
                    return
                verdict = await self._step(left.popleft())
            finally:
                self.slots.release()
                has_slot = False
            if not await self._kept(verdict.given_up):
                return  # nobody has taken these yet: whoever reads them next tries again
            self._counters.settled += verdict.settled
            left.extendleft(reversed(verdict.again))
            yield left
            failures = failures + 1 if verdict.again or verdict.given_up else 0
            if left and failures:
                await _unless(self.leaving, self._backoff.after(failures))

    async def _step(self, batch: Batch) -> Verdict:
        """Give up what is too old or too large, and attempt the others once."""
        fresh: Batch = batch
        expired: tuple[GivenUp, ...] = ()
        if self._options.maximum_record_age_in_seconds >= 0:
            age_ms_max = self._options.maximum_record_age_in_seconds * 1000
            fresh, expired = without_expired(batch, now_ms=time.time_ns() // 1_000_000, age_ms_max=age_ms_max)
        if not fresh:
            return Verdict(given_up=expired)
        if payload_bytes(fresh, overhead_bytes=self._overhead_bytes) > PAYLOAD_BYTES_MAX and size(fresh) == 1:
            piece = fresh[0]
            error = f"its event is above the {PAYLOAD_BYTES_MAX} bytes that Lambda takes"
            return Verdict(given_up=(*expired, GivenUp("PayloadTooLarge", piece.partition, piece.records, 0, error)))
        verdict = await self._attempt(fresh)
        return Verdict(verdict.settled, verdict.again, (*expired, *verdict.given_up), verdict.is_split)

    async def _attempt(self, batch: Batch) -> Verdict:
        counters = self._counters
        records = {piece.partition: piece.records for piece in batch}
        counters.invocations += 1
        counters.executions += size(batch)
        try:
            response = await self._function.invoke(self._origin.event(records))
            failed = lowest_failed(response, records) if self._options.reports_item_failures else {}
        except (FunctionFailed, MalformedResponse) as error:
            counters.function_errors += 1
            counters.time_outs += isinstance(error, FunctionFailed) and error.is_time_out
            counters.malformed_responses += isinstance(error, MalformedResponse)
            verdict = self._policy.failed(batch, f"{error}")
            log.warning("%s: function error, %s: %s", _named(batch), _next(verdict), error)
        else:
            verdict = self._policy.failed_in_part(batch, failed) if failed else self._policy.succeeded(batch)
            if failed:
                counters.partial_failures += 1
                first = ", ".join(f"{partition}@{offset}" for partition, offset in failed.items())
                log.warning("%s: reported as failed from %s on, %s", _named(batch), first, _next(verdict))
        counters.bisections += verdict.is_split
        return verdict

    async def _kept(self, given_up: Sequence[GivenUp]) -> bool:
        """Hand what was given up to the destination until it takes it; False if we have to leave before it does."""
        for group in given_up:
            if not await self._taken(group):
                return False
            self._count(group)
        return True

    async def _taken(self, group: GivenUp) -> bool:
        where = f"{group.partition}@{group.records[0].offset}-{group.records[-1].offset}"
        if self._on_failure is None:
            log.error("%s: discarded, there is no on-failure destination: %s: %s", where, group.condition, group.error)
            return True
        failures = 0
        while not (failures and self.leaving.is_set()):
            try:
                await self._on_failure.take(group)
            except Exception as error:  # a destination is code of others: nothing of it may lose a record
                failures += 1
                self._counters.on_failure_errors += 1
                pause_s = max(0.01, self._backoff.after(failures))
                log.warning("%s: the on-failure destination failed (%r): again in %g s", where, error, pause_s)
                await _unless(self.leaving, pause_s)
            else:
                self._counters.kept_on_failure += len(group.records)
                log.warning("%s: given up, now at the on-failure destination: %s", where, group.condition)
                return True
        return False

    def _count(self, group: GivenUp) -> None:
        if group.condition == "RetryAttemptsExhausted":
            self._counters.retries_exhausted += len(group.records)
        elif group.condition == "RecordAgeExceeded":
            self._counters.expired += len(group.records)
        else:
            self._counters.too_large += len(group.records)


def _named(batch: Batch) -> str:
    """Name a batch by its first record and its size."""
    return f"{batch[0].partition}@{batch[0].records[0].offset} ({size(batch)} records)"


def _next(verdict: Verdict) -> str:
    if verdict.is_split:
        return "split"
    return "tried again" if verdict.again else "given up"


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Wait, but not once `event` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
