"""Calls to AWS made at once, as each only waits for its answer."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

T = TypeVar("T")

POOL = ThreadPoolExecutor(10, thread_name_prefix="AWS")
"""Its threads outlive a batch; as many as a client of botocore keeps connections. X-Ray's context follows by itself."""


def each(
    call: Callable[..., T], names: Iterable[str], *more: Iterable[Any]
) -> tuple[dict[str, T], dict[str, Exception]]:
    """Call once for each name; return the answers, and AWS' errors, by name."""
    done: dict[str, T] = {}
    failed: dict[str, Exception] = {}
    calls = {name: POOL.submit(call, name, *arguments) for name, *arguments in zip(names, *more, strict=True)}
    for name, answer in calls.items():
        try:
            done[name] = answer.result()
        except (BotoCoreError, ClientError) as error:
            failed[name] = error
    return done, failed
