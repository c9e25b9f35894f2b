"""The Lambda function behind an event source: what an invocation is, and one that runs in this process."""

import abc
import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from lambda_adapter.event_source.event import PAYLOAD_BYTES_MAX

Handler = Callable[[dict[str, Any], Any], Any]
"""`handler(event, context)`, as Lambda calls it."""


class FunctionFailed(Exception):
    """An invocation ended in a function error: exception, exit or time-out."""

    def __init__(self, error_type: str, message: str, *, is_time_out: bool = False) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type, self.message, self.is_time_out = error_type, message, is_time_out


class Function(abc.ABC):
    """Something to invoke with events; started and stopped with its event source.

    An invocation ends within `timeout_s`, whatever the function does.
    """

    timeout_s: float

    async def __aenter__(self) -> Self:
        """Get ready; what a cold start does may wait for the first invocation."""
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027  # most have nothing to end
        """End all that runs."""

    @abc.abstractmethod
    async def invoke(self, event: dict[str, Any]) -> Any:
        """Return the function's response as it came out of JSON, or raise `FunctionFailed`."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a handler is told about its invocation, by Lambda's names."""

    deadline_ms: int
    function_name: str = "local"
    function_version: str = "$LATEST"
    memory_limit_in_mb: str = "128"
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    log_group_name: str = "/aws/lambda/local"
    log_stream_name: str = "local"
    identity: None = None
    client_context: None = None

    @property
    def invoked_function_arn(self) -> str:
        """An ARN of no account's."""
        return arn(self.function_name)

    def get_remaining_time_in_millis(self) -> int:
        """Return how long until the time-out, ms."""
        return max(0, self.deadline_ms - time.time_ns() // 1_000_000)


def arn(function_name: str) -> str:
    """Return the ARN of a function that is nowhere."""
    return f"arn:aws:lambda:us-east-1:123456789012:function:{function_name}"


class InProcess(Function):
    """A handler that runs in a thread of this process, one thread an invocation.

    A thread can't be killed: after a time-out the invocation has failed and the handler still runs. Where that
    matters, take `runtime.Runtime`.
    """

    def __init__(self, handler: Handler, *, timeout_s: float = 30.0, function_name: str = "local") -> None:
        self._handler, self.timeout_s, self._function_name = handler, timeout_s, function_name

    async def invoke(self, event: dict[str, Any]) -> Any:
        """Call the handler; its response goes through JSON, as it does in Lambda."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        deadline_ms = time.time_ns() // 1_000_000 + int(self.timeout_s * 1000)
        context = Context(deadline_ms=deadline_ms, function_name=self._function_name)

        def run() -> None:
            try:
                response, error = _through_json(self._handler(event, context)), None
            except BaseException as raised:  # whatever a handler raises is the function's failure, SystemExit included
                response, error = None, _failure(raised)
            try:
                loop.call_soon_threadsafe(_answer, answered, response, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits for an answer that took this long

        threading.Thread(target=run, name=f"invoke-{context.aws_request_id}", daemon=True).start()
        try:
            return await asyncio.wait_for(answered, self.timeout_s)
        except TimeoutError:
            raise timed_out(self.timeout_s) from None


def _answer(answered: "asyncio.Future[Any]", response: Any, error: FunctionFailed | None) -> None:
    if answered.done():
        return  # timed out, or nobody waits any more
    if error is None:
        answered.set_result(response)
    else:
        answered.set_exception(error)


def _failure(raised: BaseException) -> FunctionFailed:
    if isinstance(raised, FunctionFailed):
        return raised
    if isinstance(raised, SystemExit):
        return FunctionFailed("Runtime.ExitError", f"Runtime exited with error: exit status {raised.code}")
    return FunctionFailed(type(raised).__name__, str(raised))


def _through_json(response: Any) -> Any:
    try:
        encoded = json.dumps(response, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FunctionFailed("Runtime.MarshalError", f"Unable to marshal response: {error}") from error
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise too_large(len(encoded))
    return json.loads(encoded)


def timed_out(after_s: float) -> FunctionFailed:
    """Return Lambda's error of a function that took too long."""
    return FunctionFailed("Sandbox.Timedout", f"Task timed out after {after_s:.2f} seconds", is_time_out=True)


def too_large(response_bytes: int) -> FunctionFailed:
    """Return Lambda's error of a response above 6 MB."""
    return FunctionFailed(
        "Function.ResponseSizeTooLarge",
        f"Response payload size ({response_bytes} bytes) exceeded maximum allowed payload size "
        f"({PAYLOAD_BYTES_MAX} bytes)",
    )
