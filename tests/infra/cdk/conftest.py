"""One synthesis for all tests of the stacks, also where several pytest workers run: in a process of its own."""

import fcntl
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def checked(tmp_path_factory):
    """What `make synth` finds: `report`, and by stack the templates `full` and `first`."""
    if find_spec("aws_cdk") is None:
        pytest.skip("the extra `cdk` is not installed: make setup-cdk")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cdk"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker synthesises, the others find its report
        if not (folder / "report.json").exists():
            synthesise(folder)
    return SimpleNamespace(
        report=json.loads((folder / "report.json").read_bytes()),
        full=templates(folder / "full"),
        first=templates(folder / "first"),
    )


def synthesise(folder):
    command = [sys.executable, "-m", "infra.cdk.checks", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (folder / "report.json").exists(), done.stderr


def templates(folder):
    return {
        path.name.removesuffix(".template.json").removeprefix("linkcast-"): json.loads(path.read_bytes())["Resources"]
        for path in folder.glob("*.template.json")
    }
