"""The kernel that runs is the kernel whose source is there."""

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streams import compiled
from streams.compiled import NumbaRefused, kernel, own_imports
from streams.features import panes, windows

ROOT = Path(__file__).parents[2]
PROBE = f"""
import {panes.__name__} as panes
from streams.compiled import kernel

@kernel
def mean_5m(rows):
    return panes.latency_5m(rows[0])[0]
"""
RUN = f"""
import json, numpy as np
import {windows.__name__} as windows
from streams import probe
rows = windows.empty(1).rows
rows["latency_5m_n"], rows["latency_5m_mean"] = 1, 4.0
print(json.dumps([float(probe.mean_5m(rows)), probe.mean_5m.stats.cache_hits.total()]))
"""


def test_a_change_to_an_inlined_module_runs_though_a_warm_cache_holds_the_kernel_before_it(tmp_path) -> None:
    shutil.copytree(ROOT / "streams", tmp_path / "streams", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "streams/probe.py").write_text(PROBE)
    inlined = tmp_path.joinpath(*panes.__name__.split(".")).with_suffix(".py")
    cached = tmp_path / "streams/__pycache__"

    assert run(tmp_path) == [4.0, 0]
    assert run(tmp_path) == [4.0, 1], "the cache must be warm, or this proved nothing"
    [before] = cached.glob("probe.*.nbc")
    inlined.write_text(inlined.read_text().replace("mean = shift + (", "mean = 100.0 + shift + ("))

    assert run(tmp_path) == [104.0, 0]
    [after] = cached.glob("probe.*.nbc")
    assert after != before, "kernels of sources that are gone must not pile up"


def run(checkout: Path) -> list[float]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=checkout, env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


@functools.cache
def sources() -> dict[Path, ast.Module]:
    packages = "streams", "online", "offline", "lambda_adapter", "infra", "bench", "tests"
    return {file: ast.parse(file.read_bytes()) for package in packages for file in (ROOT / package).rglob("*.py")}


def test_a_kernel_is_made_of_every_module_of_ours_that_pythons_own_parser_finds_behind_its_imports() -> None:
    with_kernels = [
        file
        for file, tree in sources().items()
        if {"kernel", "bounded_kernel"} & names_in(tree) and "compiled" in names_in(tree) and not is_test(file)
    ]
    assert len(with_kernels) > 10

    for file in with_kernels:
        assert set(own_imports(file)) >= behind(file)


def is_test(file: Path) -> bool:
    return file.relative_to(ROOT).parts[0] == "tests"


def behind(file: Path) -> set[Path]:
    found: set[Path] = set()
    todo = {file}
    while todo:
        found |= todo
        todo = {more for one in todo for more in imported(one)} - found
    return found


@functools.cache
def imported(file: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(sources()[file]):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not followed"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    places = {ROOT.joinpath(*name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    return {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file in sources()}


def names_in(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name.rpartition(".")[2] for alias in node.names}
            names |= {str(node.module).rpartition(".")[2]} if isinstance(node, ast.ImportFrom) else set()
    return names


def test_nothing_else_asks_numba_to_compile() -> None:
    compilers = {"jit", "njit", "vectorize", "guvectorize", "cfunc", "stencil"}

    asking = [file for file, tree in sources().items() if compilers & names_in(tree) and not is_test(file)]

    assert asking == [Path(compiled.__file__)]


def test_a_kernel_outside_the_packages_is_refused_since_its_imports_would_not_be_followed() -> None:
    with pytest.raises(ValueError, match=r"test_compiled.py has a kernel: .*PACKAGES"):
        kernel(lambda x: x)


def test_a_numba_that_names_its_files_in_another_way_is_refused_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(compiled._KernelFiles, "filename_base", "features.advance-57.py311")

    with pytest.raises(NumbaRefused, match="could run old ones: install the version"):
        kernel(compiled.made_of.__wrapped__)
