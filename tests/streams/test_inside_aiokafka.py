"""One file alone reaches into aiokafka, and it takes no other version than the one whose inside it knows."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import aiokafka
import pytest

from streams import inside_aiokafka

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "online", "offline", "lambda_adapter", "infra", "bench")
DOCUMENTED = ("abc", "admin", "cluster", "coordinator.assignors", "errors", "helpers", "partitioner", "structs")
"""Modules of aiokafka that its documentation names, or whose types its documented interfaces pass."""
OF_A_NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def private_names() -> frozenset[str]:
    """The private attributes that anything in aiokafka has."""
    trees = [ast.parse(file.read_bytes()) for file in Path(aiokafka.__file__).parent.rglob("*.py")]
    names = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return frozenset(name for name in names if is_private(name)) - OF_A_NAMEDTUPLE


def reaches(source: str) -> Iterator[str]:
    """What a module has of aiokafka's inside: a private name of what is not its own, or a module."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {
        alias.asname or alias.name for node in imports for alias in node.names if str(node.module).startswith(PACKAGES)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in private_names():
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls", *ours}):
                yield ast.unparse(node)
        elif isinstance(node, ast.FunctionDef) and node.name in {"_build", "_set_producer_state", "_unpack_records"}:
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in named if is_inside(name))


def is_inside(module: str) -> bool:
    package, _, rest = module.partition(".")
    return package == "aiokafka" and bool(rest) and not f"{rest}.".startswith(tuple(f"{name}." for name in DOCUMENTED))


def test_no_other_module_reaches_into_aiokafka() -> None:
    files = [ROOT / "tests" / "conftest.py"]
    files += [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    found = {file.relative_to(ROOT).as_posix(): list(reaches(file.read_text())) for file in files}

    assert found.pop("streams/inside_aiokafka.py"), "the search finds nothing, even where there is something"
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "async def f(c): await c._client.force_metadata_update()",
        "producer._sender.sender_task.cancel()",
        "from aiokafka.record.util import calc_crc32c",
        "import aiokafka.consumer.fetcher",
        "class Batch:\n    def _build(self): ...",
    ],
)
def test_a_reach_into_aiokafka_would_be_found(source: str) -> None:
    assert list(reaches(source))


@pytest.mark.parametrize("version", ["0.13.0", "0.15.0", "1.14.0"])
def test_under_another_version_the_import_is_refused_and_says_what_to_install(version: str, monkeypatch) -> None:
    monkeypatch.setattr(aiokafka, "__version__", version)
    spec = importlib.util.spec_from_file_location("anew", inside_aiokafka.__file__)
    assert spec
    assert spec.loader

    with pytest.raises(Exception, match=rf"aiokafka {version} is installed.*aiokafka==0\.14\.\*") as refused:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    assert type(refused.value).__name__ == "OtherAiokafka"
