"""Fingerprints of code: whether two processes compute the same, told by what their modules say and not by how.

A fingerprint covers a module and all that it imports of ours, as syntax trees without docstrings, comments and imports.
A better sentence, another order of imports or a file moved changes none: it would drop a champion and let a day of
`metrics` be read again. A constant, an operator or a column does.
"""

import ast
import hashlib
import importlib
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from streams import compiled, contract
from streams.compiled import own_imports
from streams.features import kernel, labels, prefetch, snapshot


@cache
def features_sha256() -> str:
    """Return the fingerprint of what features and the windows behind them mean: bundles and snapshots rest on it.

    A rule label is no feature, a prefetch changes nothing, and a snapshot's layout has its own `snapshot.SCHEMA`. Of
    the contract it is the constants that count.
    """
    return fingerprint(kernel, without=(compiled, contract, labels, prefetch, snapshot))


def fingerprint(module: ModuleType, *, without: Iterable[ModuleType]) -> str:
    """Return the fingerprint of `module` and what it imports of ours, as 64 hex digits.

    The modules `without` don't count, nor what they alone import. But a number, a text or a tuple of such that comes
    from one counts by its value. `ValueError` for what else comes from one and is no function and no class.
    """
    left_out = {_file_of(other) for other in without}
    trees = [_parsed(file.read_bytes()) for file in own_imports(_file_of(module), without=left_out)]
    # By content alone: neither the names of files nor their order count, nor how many of them say nothing.
    said = sorted(text for tree in trees if (text := meaning(tree)))
    constants = sorted({line for tree in trees for line in _constants(tree, left_out)})
    return hashlib.sha256("\n".join([*said, *constants]).encode()).hexdigest()


def _parsed(source: bytes) -> ast.Module:
    for _ in range(8):
        try:
            return ast.parse(source)
        except SystemError:
            # CPython 3.11 counts a tree's depth for all threads together (python/cpython#106905): whoever is
            # interrupted by another that parses fails, and a worker ended so at its start.
            continue
    return ast.parse(source)


def _file_of(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__).resolve()


def meaning(tree: ast.Module) -> str:
    """Return a module as text without what says nothing, for every version of Python the same; empty if that is all.

    >>> one, same, other = map(ast.parse, ("import math; x = 1  # one", "'One.'; x = (1)", "x = 1.0"))
    >>> meaning(one) == meaning(same), meaning(one) == meaning(other)
    (True, False)
    """
    body = _told(tree.body)
    return repr((body, sorted(set(_renamed(tree))))) if body else ""


def _told(node: object) -> object:
    """Return a tree as nested tuples. Empty fields are left out, for versions of Python differ in them."""
    if isinstance(node, list):
        return tuple(_told(one) for one in node if not _says_nothing(one))
    if isinstance(node, ast.AST):
        fields = ((name, _told(value)) for name, value in ast.iter_fields(node) if name != "ctx")
        return type(node).__name__, *((name, told) for name, told in fields if told is not None and told != ())
    return node


def _says_nothing(node: object) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Import | ast.ImportFrom)


def _renamed(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield names that an import gives to something else: two of them swapped are another code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname, alias.name.rpartition(".")[2]) for alias in node.names if alias.asname)


def _constants(tree: ast.Module, left_out: Collection[Path]) -> Iterator[str]:
    """Yield what a module imports by value from modules that are left out, each as `name=value`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or str(node.module).partition(".")[0] not in compiled.PACKAGES:
            continue
        origin = importlib.import_module(str(node.module))
        for name in (alias.name for alias in node.names):
            value = getattr(origin, name)
            if isinstance(value, ModuleType):
                if _file_of(value) in left_out:
                    raise ValueError(f"{name} is no part of a fingerprint: import its names one by one, not the module")
            elif _file_of(origin) in left_out and not callable(value):
                yield f"{name}={_plain(name, value)!r}"


def _plain(name: str, value: object) -> object:
    parts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(part, bool | int | float | str | bytes) for part in parts):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}, whose value no fingerprint can hold: move it to its user")
