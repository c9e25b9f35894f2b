"""The adapter's own handler, brought down by the plan of `edge_soak`: in the middle of a batch, behind real work.

Runs in the processes of AWS' runtime client. Poison brings it down whenever it is met; the other faults happen once.
"""

import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.edge_soak import FOLDER, Id, Plan, Poison, append, done_line, read_plan
from lambda_adapter.handler import lambda_handler


@cache
def _folder() -> Path:
    return Path(os.environ[FOLDER])


class _Fault(NamedTuple):
    kind: str  # field of the plan
    key: str
    index: int
    id: Id


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take a batch up to the first record with a fault, and let that happen."""
    fault = next(_faults(event, read_plan(_folder())), None)
    if fault is None:
        return _taken(event, context)
    front = _front(event, fault)
    answer = _taken(front, context) if front["records"] else {"batchItemFailures": []}
    failures = list(answer["batchItemFailures"])
    failed = {failure["itemIdentifier"]["partition"] for failure in failures}
    if fault.key not in failed:  # else the adapter had stopped before it
        _happen(fault, event, context)
    return {"batchItemFailures": failures + [_failure(r) for r in _unreached(event, front, failed)]}


def _happen(fault: _Fault, event: dict[str, Any], context: Any) -> None:
    if fault.kind == "poison":
        size = sum(map(len, event["records"].values()))
        # The event source is the parent: it may give one batch to several of its processes.
        append(_folder() / "attempts", [f"{os.getppid()} {fault.id[0]} {fault.id[1]} {size}"])
        raise Poison(fault.id)
    _met(fault.id).touch()
    if fault.kind == "raised":
        raise ConnectionError(f"503 at {fault.id}")
    if fault.kind == "slow":
        time.sleep(context.get_remaining_time_in_millis() / 1000 + 60)  # killed before that is over


def _faults(event: dict[str, Any], plan: Plan) -> Iterator[_Fault]:
    for key, records in event["records"].items():
        for index, record in enumerate(records):
            id_ = (record["partition"], record["offset"])
            for kind, ids in plan._asdict().items():
                if id_ in ids and (kind == "poison" or not _met(id_).exists()):
                    yield _Fault(kind, key, index, id_)


def _met(id_: Id) -> Path:
    return _folder() / f"met-{id_[0]}-{id_[1]}"


def _front(event: dict[str, Any], fault: _Fault) -> dict[str, Any]:
    """Return the event up to the record with the fault."""
    front = {}
    for key, records in event["records"].items():
        if key == fault.key:
            front |= {key: records[: fault.index]} if fault.index else {}
            break
        front[key] = records
    return event | {"records": front}


def _unreached(event: dict[str, Any], front: dict[str, Any], failed: set[str]) -> Iterator[dict[str, Any]]:
    for key, records in event["records"].items():
        reached = len(front["records"].get(key, ()))
        if key not in failed and reached < len(records):
            yield records[reached]


def _failure(record: dict[str, Any]) -> dict[str, Any]:
    partition = f"{record['topic']}-{record['partition']}"
    return {"itemIdentifier": {"partition": partition, "offset": record["offset"]}}


def _taken(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Have the adapter take a batch; write down what it is done with."""
    answer = dict(lambda_handler(event, context))
    failed = {f["itemIdentifier"]["partition"]: f["itemIdentifier"]["offset"] for f in answer["batchItemFailures"]}
    done = [
        done_line((record["partition"], record["offset"]))
        for key, records in event["records"].items()
        for record in records
        if record["offset"] < failed.get(key, record["offset"] + 1)
    ]
    append(_folder() / "done", done)
    return answer
