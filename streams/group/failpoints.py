"""Fail points: steps of the worker at which the fault suite kills it, `bench/faults`.

`LINKCAST_FAIL_AT=step:n` ends the process by SIGKILL where it comes to `step` for the n-th time; without the variable
a fail point is an empty function.
"""

import os
import signal

STEPS = (
    "fetched",  # records are here
    "advanced",  # the state has moved on, nothing is sent
    "output_sent",  # one of a batch's outputs is with the producer
    "before_gather",  # all outputs are with the producer, their acknowledgements are awaited next
    "before_commit",  # all are acknowledged
    "offsets_sent",  # exactly once: the offset is in the transaction, which is open
    "schedule_written",  # which model scores from here on is on record, and nothing that rests on it is sent
    "committed",  # the group's offset has moved
    "snapshot_taken",  # a copy of the state is made
    "snapshot_half_sent",  # the transaction is open and half of the chunks are with the producer
    "snapshot_sent",  # all chunks are acknowledged, the transaction is open
    "snapshot_written",  # the transaction is committed
    "fenced",  # the owner before is fenced, the newest snapshot is read
    "restored",  # the state is the snapshot's, or known to have none
    "rebuilt",  # a batch below the committed offset went into the state, and nowhere else
)

_FAIL_AT = os.environ.get("LINKCAST_FAIL_AT")

if _FAIL_AT is None:

    def reached(step: str) -> None:
        """Do nothing."""

else:
    _step, _, _n = _FAIL_AT.partition(":")
    if _step not in STEPS or not _n.isdecimal() or int(_n) < 1:
        raise ValueError(f"LINKCAST_FAIL_AT={_FAIL_AT}: give step:n, n from 1, with a step of {', '.join(STEPS)}")
    _left = int(_n)

    def reached(step: str) -> None:
        """End this process if it has come to the step it is to fail at."""
        global _left
        _left -= step == _step
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
