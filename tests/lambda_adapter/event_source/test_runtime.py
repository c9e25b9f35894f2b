"""AWS' own runtime client behind our Runtime API: what it does with each way that a function can fail."""

import psutil
import pytest

pytest.importorskip("awslambdaric", reason="AWS' runtime client is not installed")

from lambda_adapter.event_source import FunctionFailed, Options
from lambda_adapter.event_source.runtime import Runtime

FUNCTIONS = """
import os, pathlib, sys, time

def echo(event, context):
    return {"event": event, "pid": os.getpid(), "request": context.aws_request_id, "name": context.function_name,
            "arn": context.invoked_function_arn, "ms": context.get_remaining_time_in_millis()}

def fail(event, context):
    raise ValueError("bad\\nreading \\u20ac")

def leave(event, context):
    os._exit(3)

def hang(event, context):
    while True:
        time.sleep(60)

def hang_once(event, context):
    flag = pathlib.Path(os.environ["FLAG"])
    if not flag.exists():
        flag.touch()
        hang(event, context)

def large(event, context):
    return "x" * (7 << 20)

def no_json(event, context):
    return {1, 2}
"""


@pytest.fixture
def runtime(tmp_path):
    """`runtime("echo")` is a runtime with a function of `FUNCTIONS`."""
    (tmp_path / "functions_of_test.py").write_text(FUNCTIONS)
    (tmp_path / "broken_of_test.py").write_text("raise KeyError('LINKCAST_TABLE')")

    def make(name, module="functions_of_test", *, timeout_s=600.0):
        return Runtime(
            f"{module}.{name}", timeout_s=timeout_s, folder=tmp_path, environment={"FLAG": str(tmp_path / "flag")}
        )

    return make


async def test_an_event_goes_there_and_the_response_comes_back_in_one_warm_process(runtime):
    event = {"records": {"a-0": [{"value": "x" * (5 << 20), "headers": [{"h": [-1, 127]}]}]}, "text": "€"}
    async with runtime("echo") as function:
        first, second = await function.invoke(event), await function.invoke({})

    assert first["event"] == event  # above 1 MiB libcurl asks before it sends the same back
    assert first["pid"] == second["pid"]
    assert first["request"] != second["request"]
    assert (first["name"], first["arn"].rpartition(":")[2], function.cold_starts) == ("local", "local", 1)
    assert 0 < first["ms"] <= 600_000


@pytest.mark.parametrize(
    ("name", "error", "cold_starts"),
    [
        ("fail", "ValueError: bad\nreading €", 1),
        ("no_json", "Runtime.MarshalError: Unable to marshal response: Object of type set is not JSON serializable", 1),
        ("leave", "Runtime.ExitError: Runtime exited with error: exit status 3", 2),
        ("large", "Function.ResponseSizeTooLarge: Response payload size (7340034 bytes) exceeded", 2),
    ],
)
async def test_a_failure_is_told_as_lambda_tells_it_and_the_next_invocation_goes_on(name, error, cold_starts, runtime):
    async with runtime(name) as function:
        for _ in range(2):
            with pytest.raises(FunctionFailed) as failed:
                await function.invoke({})
            assert str(failed.value).startswith(error)

    assert function.cold_starts == cold_starts  # a process that left, or whose answer was refused, is made anew


async def test_a_function_that_hangs_is_killed_at_its_deadline(runtime):
    async with runtime("hang", timeout_s=0.2) as function:
        with pytest.raises(FunctionFailed, match=r"Sandbox.Timedout: Task timed out after 0.20 seconds") as failed:
            await function.invoke({})
        assert failed.value.is_time_out
        assert function.sandboxes_up == 0


@pytest.mark.parametrize(
    ("name", "module", "error"),
    [
        ("handler", "broken_of_test", "KeyError: 'LINKCAST_TABLE'"),
        ("handler", "nowhere_of_test", "Runtime.ImportModuleError: Unable to import module 'nowhere_of_test'"),
        ("handler", "functions_of_test", "Runtime.HandlerNotFound: Handler 'handler' missing on module"),
    ],
)
async def test_an_init_that_crashes_is_the_error_of_each_invocation(name, module, error, runtime):
    async with runtime(name, module) as function:
        for _ in range(2):
            with pytest.raises(FunctionFailed) as failed:
                await function.invoke({})
            assert str(failed.value).startswith(error)


async def test_no_process_is_left_behind(runtime):
    async with runtime("echo") as function:
        pid = (await function.invoke({}))["pid"]
        assert psutil.pid_exists(pid)

    assert not psutil.pid_exists(pid)


@pytest.mark.kafka
async def test_a_batch_that_hung_is_delivered_again_to_a_new_process(runtime, make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, [b"1", b"2"])
    function = runtime("hang_once", timeout_s=0.5)

    counters = await run_dry(topic, function, Options(maximum_batching_window_in_seconds=0))

    assert counters.time_outs >= 1  # on a busy machine the next attempt may take half a second, too
    assert (counters.settled, function.cold_starts) == (2, 1 + counters.time_outs)
