"""What moves a fingerprint: code that computes something else, and nothing beside it."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from streams import contract
from streams.features import baselines, calendar, kernel, labels, panes, prefetch, windows
from streams.features.fingerprints import features_sha256, meaning

ROOT = Path(__file__).parents[3]
fresh_features_sha256 = features_sha256.__wrapped__
SOURCE = '''"""Means."""

import math
from typing import Any

from streams.features.panes import LATENCY, open_mean
from streams.features.windows import PANES as N

HALF = 0.5
"""Of what there is."""


def mean(r: Any) -> float:
    """Return the mean."""
    return math.floor(open_mean(r, LATENCY) * HALF) if N > 3 else 0.0  # until then nothing is known
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("until then nothing", "nobody knows: nothing"),
        ("Return the mean.", "Return what is in the middle.\n\n    Of a stream."),
        ('"""Means."""', ""),
        ('"""Of what there is."""\n', ""),
        ("import math\nfrom typing import Any\n", "from typing import Any\nimport math\n"),
        ("streams.features.panes", "streams.features.kernel.panes"),
        ("LATENCY, open_mean", "open_mean, LATENCY"),
        ("HALF) if N > 3 else 0.0", "HALF) if (N > 3) else (0.0)"),
    ],
)
def test_a_sentence_an_order_of_imports_or_a_place_of_a_module_means_nothing(old: str, new: str) -> None:
    assert meaning(ast.parse(SOURCE.replace(old, new))) == meaning(ast.parse(SOURCE))
    assert old in SOURCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("HALF = 0.5", "HALF = 0.25"),
        ("N > 3", "N >= 3"),
        ("> 3", "> 3.0"),
        ("open_mean(r, LATENCY)", "open_mean(LATENCY, r)"),
        ("PANES as N", "PANES_5M as N"),
        ("else 0.0", "else None"),
        ("math.floor(", "("),
    ],
)
def test_a_constant_an_operator_or_another_thing_by_the_same_name_means_something_else(old: str, new: str) -> None:
    assert meaning(ast.parse(SOURCE.replace(old, new))) != meaning(ast.parse(SOURCE))
    assert old in SOURCE


@pytest.mark.parametrize(
    ("module", "old", "new", "moves"),
    [
        (kernel, "_PREVIOUS_MS_MAX = 3_600_000", "_PREVIOUS_MS_MAX = 3_600_001", True),
        (panes, "mean = shift + (", "mean = shift - (", True),
        (windows, '("newest", np.int64)', '("newest", np.uint64)', True),
        (baselines, "_CUT_BITS) + 1", "_CUT_BITS) + 2", True),
        (calendar, 'side="right"', 'side="left"', True),
        (panes, "Distances from one pane's mean", "Away from it", False),
        (labels, "if op == 0:", "if op == 7:", False),
        (prefetch, "_LINE_BYTES = 64", "_LINE_BYTES = 128", False),
    ],
)
def test_features_rest_on_their_kernel_and_what_is_compiled_into_it_but_not_on_labels(
    edit: Callable[[ModuleType, str, str], None], module: ModuleType, old: str, new: str, moves: bool
) -> None:
    before = fresh_features_sha256()
    edit(module, old, new)

    assert (fresh_features_sha256() != before) is moves


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS", contract.METRICS[::-1]),
        ("FEATURES", (*contract.FEATURES[1:], contract.FEATURES[0])),
        ("EVENT_TIME_MS_MAX", contract.EVENT_TIME_MS_MAX + 1),
    ],
)
def test_constants_of_the_contract_count_by_their_value(monkeypatch, name: str, value: object) -> None:
    before = fresh_features_sha256()
    monkeypatch.setattr(contract, name, value)

    assert fresh_features_sha256() != before


def test_a_value_that_no_fingerprint_can_hold_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(contract, "METRICS", ["a list", "may change"])

    with pytest.raises(ValueError, match="METRICS is a list"):
        fresh_features_sha256()


def test_a_moved_module_drops_no_bundle(tmp_path) -> None:
    shutil.copytree(ROOT / "streams", tmp_path / "streams", ignore=shutil.ignore_patterns("__pycache__"))
    place = tmp_path.joinpath(*panes.__name__.split(".")).with_suffix(".py")
    room = tmp_path / "streams/elsewhere"
    room.mkdir()
    (room / "__init__.py").write_text('"""A room."""\n')
    place.rename(room / "panes.py")
    names = ", ".join(name for name in vars(panes) if not name.startswith("__"))
    place.write_text(f'"""Moved."""\nfrom streams.elsewhere.panes import {names}\n')

    done = subprocess.run(
        [sys.executable, "-c", "from streams.features.fingerprints import features_sha256; print(features_sha256())"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip

    assert done.stdout.strip() == fresh_features_sha256()


def test_a_parser_that_another_thread_has_confused_is_asked_again(monkeypatch) -> None:
    expected, parse, asked = fresh_features_sha256(), ast.parse, []

    def confused_at_first(source: bytes) -> ast.Module:
        asked.append(source)
        if len(asked) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=177, after=228)")
        return parse(source)

    monkeypatch.setattr(ast, "parse", confused_at_first)

    assert fresh_features_sha256() == expected
    assert asked[0] == asked[1]
