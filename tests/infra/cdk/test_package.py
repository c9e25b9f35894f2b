"""The Lambda's folder holds what the handler imports, and nothing of ours that it does not."""

import subprocess
import sys
from importlib.util import MAGIC_NUMBER

import pytest

from infra.cdk.package import (
    BYTES_MAX,
    HANDLER,
    LOCK,
    PYTHON,
    PackageRefused,
    check_package,
    compile_for_lambda,
    copy_ours,
)

IMPORTED = """
import sys
sys.path.insert(0, {folder!r})
from pkgutil import resolve_name
from types import SimpleNamespace
handler = resolve_name({handler!r})
context = SimpleNamespace(
    function_name="f",
    memory_limit_in_mb=512,
    invoked_function_arn="a",
    aws_request_id="1",
    get_remaining_time_in_millis=lambda: 60_000,
)
answer = handler({{"eventSource": "aws:kafka", "records": {{}}}}, context)
heavy = [name for name in ("numpy", "aiokafka", "xgboost", "pyarrow") if name in sys.modules]
import streams.inside_aiokafka  # as the first dead letter does that hangs
ours = [m for name, m in sys.modules.items() if name.split(".")[0] in ("lambda_adapter", "streams")]
elsewhere = [m.__file__ for m in ours if not m.__file__.startswith({folder!r})]
print(bool(ours), elsewhere, heavy, answer)
"""


def test_the_copied_files_are_all_of_ours_that_lambdas_handler_needs_to_answer(tmp_path):
    copy_ours(tmp_path)
    script = IMPORTED.format(folder=str(tmp_path), handler=HANDLER)
    environment = {
        "PATH": "",
        "AWS_DEFAULT_REGION": "us-east-1",
        "LINKCAST_TABLE": "t",
        "LINKCAST_BUS": "b",
        "LINKCAST_DEAD_TOPIC": "d",
        "LINKCAST_BOOTSTRAP": "k:9098",
        "POWERTOOLS_TRACE_DISABLED": "true",
        "AWS_LAMBDA_FUNCTION_NAME": "f",  # as in Lambda, the import wires the adapter, rules and words included
    }

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "True [] [] {'batchItemFailures': []}"


def test_the_package_goes_with_bytecode_that_stays_valid_whatever_an_archive_makes_of_its_times(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"python{PYTHON}").symlink_to(sys.executable)  # as good as Lambda's for what is asked here
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    folder = tmp_path / "package"
    copy_ours(folder)

    assert compile_for_lambda(folder)

    (compiled,) = folder.glob("lambda_adapter/__pycache__/handler.*.pyc")
    magic, flags = compiled.read_bytes()[:4], int.from_bytes(compiled.read_bytes()[4:8], "little")
    assert (magic, flags) == (MAGIC_NUMBER, 0b01)  # by hash, and not checked
    assert b"/var/task/lambda_adapter/handler.py" in compiled.read_bytes()
    assert str(folder).encode() not in compiled.read_bytes()


def test_a_name_that_starts_no_python_leaves_the_package_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / f"python{PYTHON}"
    shim.write_text("#!/bin/sh\nexit 127\n", "utf-8")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert not compile_for_lambda(tmp_path)
    assert not list(tmp_path.rglob("*.pyc"))


def test_the_lock_brings_neither_numpy_nor_a_model():
    locked = {line.split("==")[0] for line in LOCK.read_text("utf-8").splitlines() if "==" in line}

    assert locked >= {"aws-lambda-powertools", "pydantic", "boto3", "aiokafka", "msgspec"}
    assert not locked & {"numpy", "numba", "xgboost", "xgboost-cpu", "pyarrow", "scipy"}


def test_no_folder_is_deployed_that_has_no_handler(tmp_path):
    with pytest.raises(PackageRefused, match=r"python -m infra\.cdk\.package"):
        check_package(tmp_path)


def test_a_package_that_grew_is_refused(tmp_path):
    copy_ours(tmp_path)
    with (tmp_path / "added.so").open("wb") as added:
        added.truncate(BYTES_MAX)

    with pytest.raises(PackageRefused, match="at most 36,700,160"):
        check_package(tmp_path)
