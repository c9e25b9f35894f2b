"""A function in `awslambdaric`, AWS' own runtime client, one process a sandbox.

What a handler meets here as in Lambda: JSON both ways, the shape of its errors, its deadline, a cold start, an init
that crashes, and a time-out that kills the process.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lambda_adapter.event_source.function import Function, FunctionFailed, arn, timed_out, too_large
from lambda_adapter.event_source.runtime_api import Invocation, RuntimeApi, error_of

INIT_S_MAX = 30.0
"""AWS gives an init 10 s, and after that the function's own time-out; a busy machine gets a little longer."""


class RuntimeMissing(Exception):
    """`awslambdaric` is not installed."""


class Runtime(Function):
    """A handler that runs in processes of its own, as many as there are invocations at once.

    Parameters
    ----------
    handler
        `package.module.function`, as Lambda takes it.
    timeout_s
        Of one invocation; the init comes on top.
    environment
        Added to this process' own; AWS_LAMBDA_* that Lambda sets are set.
    folder
        Where the handler's module is found; the current one unless given.
    output
        File descriptor for what the function prints: standard error unless given.
    """

    def __init__(
        self, handler: str, *, timeout_s: float = 30.0, function_name: str = "local", memory_mb: int = 512,
        environment: Mapping[str, str] | None = None, folder: Path | None = None, output: int | None = None,
    ) -> None:  # fmt: skip
        if importlib.util.find_spec("awslambdaric") is None:
            raise RuntimeMissing("AWS' runtime client is not installed: pip install 'awslambdaric==4.2.2'")
        self.timeout_s, self._function_name, self._handler = timeout_s, function_name, handler
        self._folder, self._output = folder or Path.cwd(), output
        self._environment = _environment(handler, function_name, memory_mb, self._folder) | dict(environment or {})
        self._idle: list[_Sandbox] = []
        self._all: set[_Sandbox] = set()
        self.cold_starts = 0

    async def __aexit__(self, *_: object) -> None:
        """End every process."""
        for sandbox in list(self._all):
            await self._end(sandbox)

    @property
    def sandboxes_up(self) -> int:
        """How many processes there are."""
        return sum(sandbox.is_up for sandbox in self._all)

    async def invoke(self, event: dict[str, Any]) -> Any:
        """Have an idle process, or a new one, do it; one that failed to answer is ended."""
        sandbox = self._idle.pop() if self._idle else await self._start()
        try:
            response = await sandbox.invoke(json.dumps(event, separators=(",", ":")).encode(), self)
        except FunctionFailed as error:
            await self._put_back(sandbox, is_over=error.error_type in _FATAL)
            raise
        except BaseException:
            await self._put_back(sandbox, is_over=True)
            raise
        await self._put_back(sandbox)
        return response

    async def _start(self) -> "_Sandbox":
        sandbox = _Sandbox()
        self._all.add(sandbox)
        self.cold_starts += 1
        try:
            await sandbox.start(self._handler, self._environment, self._folder, self._output)
        except BaseException:
            await self._end(sandbox)
            raise
        return sandbox

    async def _put_back(self, sandbox: "_Sandbox", *, is_over: bool = False) -> None:
        if is_over or not sandbox.is_up:
            await self._end(sandbox)
        else:
            self._idle.append(sandbox)

    async def _end(self, sandbox: "_Sandbox") -> None:
        self._all.discard(sandbox)
        await sandbox.end()

    def invocation(self, event: bytes) -> Invocation:
        """Return an invocation whose time begins now."""
        deadline_ms = time.time_ns() // 1_000_000 + int(self.timeout_s * 1000)
        return Invocation(str(uuid.uuid4()), deadline_ms, arn(self._function_name), event)


_FATAL = ("Sandbox.Timedout", "Runtime.ExitError", "Function.ResponseSizeTooLarge")
"""Errors behind which the process is no more, or in a state that nobody knows."""


def _environment(handler: str, function_name: str, memory_mb: int, folder: Path) -> dict[str, str]:
    return os.environ | {
        "AWS_LAMBDA_FUNCTION_NAME": function_name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function_name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "LAMBDA_TASK_ROOT": str(folder),
        "_HANDLER": handler,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }


class _Sandbox:
    """One process of the runtime and the API that serves it."""

    def __init__(self) -> None:
        self._api = RuntimeApi()
        self._process: asyncio.subprocess.Process | None = None
        self._is_warm = False

    @property
    def is_up(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self, handler: str, environment: Mapping[str, str], folder: Path, output: int | None) -> Self:
        """Start the process; its init goes on while the first invocation waits."""
        await self._api.__aenter__()
        into = sys.stderr.fileno() if output is None else output
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "awslambdaric", handler, cwd=folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=into, stderr=into, env={**environment, "AWS_LAMBDA_RUNTIME_API": self._api.address},
        )  # fmt: skip
        return self

    async def invoke(self, event: bytes, runtime: Runtime) -> Any:
        """Return the response to one event, or raise `FunctionFailed`."""
        assert self._process is not None, "started before it is invoked"
        exited = asyncio.ensure_future(self._process.wait())
        try:
            await self._warm_up(exited)
            answered = self._api.begin(runtime.invocation(event))
            await asyncio.wait((answered, exited), timeout=runtime.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not (answered.done() or exited.done()):
                raise timed_out(runtime.timeout_s)
            if not answered.done():
                raise FunctionFailed("Runtime.ExitError", f"Runtime exited with error: {_status(exited.result())}")
        finally:
            exited.cancel()
        answer = answered.result()
        if answer.kind == "too large":
            raise too_large(len(answer.body))
        if answer.kind != "response":
            raise FunctionFailed(*error_of(answer))
        return json.loads(answer.body)

    async def _warm_up(self, exited: "asyncio.Future[int]") -> None:
        """Wait until the runtime asks for work, so that the init is no part of the invocation's time."""
        if self._is_warm:
            return
        asks = asyncio.ensure_future(self._api.asked.wait())
        await asyncio.wait((asks, exited), timeout=INIT_S_MAX, return_when=asyncio.FIRST_COMPLETED)
        asks.cancel()
        if self._api.asked.is_set():
            self._is_warm = True
            return
        if error := self._api.init_error:
            raise FunctionFailed(*error_of(error))
        if exited.done():
            raise FunctionFailed("Runtime.ExitError", f"Runtime exited with error: {_status(exited.result())}")
        raise timed_out(INIT_S_MAX)

    async def end(self) -> None:
        """Kill the process, as Lambda does, and close its API."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._api.address:
            await self._api.__aexit__()


def _status(returncode: int) -> str:
    return f"exit status {returncode}" if returncode >= 0 else f"signal: {-returncode}"
