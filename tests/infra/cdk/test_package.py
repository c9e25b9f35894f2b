"""The Lambda's folder holds what the handler imports, and nothing of ours that it does not."""

import subprocess
import sys

import pytest

from infra.cdk.package import BYTES_MAX, LOCK, PackageRefused, check_package, copy_ours

IMPORTED = """
import sys
sys.path.insert(0, {folder!r})
import lambda_adapter.handler
ours = [m for name, m in sys.modules.items() if name.split(".")[0] in ("lambda_adapter", "streams")]
elsewhere = [m.__file__ for m in ours if not m.__file__.startswith({folder!r})]
heavy = [name for name in ("numpy", "aiokafka", "xgboost", "pyarrow") if name in sys.modules]
print(len(ours), elsewhere, heavy)
"""


def test_the_copied_files_are_all_that_the_handler_needs_of_ours(tmp_path):
    copy_ours(tmp_path)
    script = IMPORTED.format(folder=str(tmp_path))
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

    assert done.stdout.split(" ", 1)[1].strip() == "[] []"


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
