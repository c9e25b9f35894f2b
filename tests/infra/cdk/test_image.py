"""The Dockerfile names only what the repository has; docker itself is nowhere in the tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
STEPS = (ROOT / "infra" / "cdk" / "Dockerfile").read_text("utf-8")


def test_all_that_is_copied_is_there():
    sources = [
        source for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", STEPS, re.MULTILINE) for source in line.split()[:-1]
    ]

    assert len(sources) >= 10
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_each_package_of_the_wheel_is_copied():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (packages,) = re.findall(
        r"^packages = \[(.*)\]$", project.split("[tool.hatch.build.targets.wheel]")[1], re.MULTILINE
    )[:1]

    for package in re.findall(r'"(\w+)"', packages):
        assert f"COPY {package} {package}\n" in STEPS


def test_what_is_installed_is_locked_by_hash():
    installs = [line for line in STEPS.splitlines() if "pip install" in line and "--editable" not in line]

    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_sagemaker_finds_the_word_that_it_starts_an_endpoint_with():
    serve = ROOT / "infra" / "cdk" / "serve"

    assert "exec linkcast sagemaker serve" in serve.read_text("utf-8")
    assert "/usr/local/bin/serve" in STEPS
