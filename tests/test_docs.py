"""The pages against what they speak of: commands, make targets, files, reasons, metrics and links."""

import asyncio
import re
import tomllib
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from prometheus_client import REGISTRY

from infra.command import SUBCOMMANDS, load
from streams import measures
from streams.contract import CLASSES, FEATURES, DeadReason, MetricEvent
from streams.features.labels import DEFAULT_RULES
from streams.wire.events import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(
    path for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "decisions") for path in folder.glob("*.md")
)  # fmt: skip
PACKAGES = ("streams", "online", "offline", "lambda_adapter", "infra")


def leaves():
    """Yield each command that does something, with its name as it is typed."""
    for name in SUBCOMMANDS:
        command = load(name)
        below = command.commands if isinstance(command, click.Group) else {}
        yield from ((f"linkcast {name} {sub}", below[sub]) for sub in below)
        if not below:
            yield f"linkcast {name}", command


@pytest.mark.parametrize(("typed", "command"), [pytest.param(*leaf, id=leaf[0]) for leaf in leaves()])
def test_each_subcommand_has_help_with_a_line_to_paste(typed, command):
    text, _, example = (command.help or "").partition("\b\n")

    assert len(text.strip()) > 40
    assert re.search(rf"^ {{4,}}.*{typed}\b", example, re.MULTILINE)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_stands_in_the_readme(name):
    assert f"`linkcast {name}`" in README


def test_no_page_names_a_subcommand_that_is_none():
    for page in PAGES:
        for name in re.findall(r"(?:^|[`'(/&] ?)linkcast ([a-z]+)", page.read_text("utf-8"), re.MULTILINE):
            assert name in SUBCOMMANDS, f"{page.name}: linkcast {name}"


def test_each_make_target_that_a_page_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [
        (page.name, target)
        for page in [*PAGES, ROOT / ".ci" / "run"]
        for target in re.findall(r"(?:^|`|&& )make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    ]

    assert {target for _, target in named} >= {"demo", "test", "lint"}
    assert [(page, target) for page, target in named if target not in targets] == []


def test_the_file_map_names_every_module():
    block = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("```")[1]
    named = mapped(block)
    missing = [
        str(path)
        for package in PACKAGES
        for path in sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))
        if path.name != "__init__.py" and not any(place in named for place in (path, *path.parents[:-2]))
    ]

    assert missing == []
    assert [str(place) for place in named if not (ROOT / place).exists()] == []


def mapped(block):
    """Return the files and folders of the map; what stands indented below a folder lies in it."""
    folders: dict[int, Path] = {}
    found = set()
    for line in block.splitlines():
        names = re.match(r" *((?:[\w.]+(?:/|\.\w+) ?)*)", line)[0]
        indent = len(names) - len(names.lstrip())
        parent = next((folders[i] for i in sorted(folders, reverse=True) if i < indent), Path())
        for name in names.split():
            found.add(parent / name)
            if name.endswith("/"):
                folders = {i: folder for i, folder in folders.items() if i < indent} | {indent: parent / name}
    # A top folder alone stands for nothing: its modules have lines of their own.
    return {place for place in found if len(place.parts) > 1 or place.name not in PACKAGES}


def test_each_dead_letter_reason_and_field_stands_in_the_producers_page():
    page = (ROOT / "docs" / "producers.md").read_text("utf-8")

    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(rows) == {*get_args(DeadReason), *MetricEvent.__struct_fields__}


def test_the_features_page_has_each_feature_class_and_rule_as_the_code_has_it():
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    rules = tomllib.loads(DEFAULT_RULES.read_text())["rule"]
    of_rules = [row for row in rows if len(row) == 5 and row[0] and row[1].strip("`") in CLASSES]

    assert [(row[0], row[1]) for row in rows if len(row) == 5 and row[1].strip("`") in FEATURES] == [
        (str(n), f"`{name}`") for n, name in enumerate(FEATURES, 1)
    ]
    assert {row[0].strip("`") for row in rows if len(row) == 2} >= set(CLASSES)
    assert [(row[1], re.findall("`(.*?)`", row[2]), float(row[4])) for row in of_rules] == [
        (f"`{rule['class']}`", [*rule.get("all", []), *rule.get("any", [])], rule["confidence"]) for rule in rules
    ]


def test_each_metric_of_a_worker_stands_in_the_operations_page():
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert measures.EVENTS  # registers what a worker says
    names = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("linkcast_")}

    assert [name for name in sorted(names) if name not in page] == []


async def test_the_readmes_producer_reaches_the_topic(kafka, topics, consume_all):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    example = example.replace("127.0.0.1:9092", kafka.bootstrap).replace('"linkcast."', repr(topics))

    await asyncio.to_thread(exec, example, {})

    (record,) = await consume_all(f"{topics}metrics")
    assert (record.key, parse(record.value).stream_id) == (b"leaf-012", "leaf-012/17")


def test_each_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pre_commit_runs_the_tools_of_the_project_alone():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    tools = [hook["entry"].split()[0].removeprefix(".venv/bin/") for repo in config["repos"] for hook in repo["hooks"]]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]

    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {re.match("[a-z-]+", name)[0] for name in groups} >= set(tools)
