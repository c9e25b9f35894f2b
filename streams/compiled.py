"""Kernels: Python functions that Numba compiles, kept on disk under all the sources that they were made of.

Numba keeps a compiled function under the hash of its own file. But other modules' functions are compiled into it and
their constants are frozen in it: what they said when it was compiled would run for ever. Here it is kept under its own
module, all that this imports of ours however indirectly, and the versions of Numba and LLVM; Numba adds the processor.
No source is missing, for what a kernel is made of reaches its module by an import.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
from numba.core import caching
from numba.extending import is_jitted

import streams

PACKAGES = ("streams", "online", "offline", "bench")
"""Those that have kernels. A kernel anywhere else is refused, for its imports of there would not be followed."""

_ROOT = Path(streams.__file__).resolve().parents[1]
# A line of prose that begins like an import costs a look for a file that isn't there.
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+)?import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile a function that Python calls at its first call, without the interpreter's lock; keep it on disk."""
    return _kept(function, inlined(function))


def inlined(function: _Function) -> _Function:
    """Compile a function into the kernels that call it; from Python, without a cache."""
    return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


def bounded_kernel(function: _Function) -> _Function:
    """As `kernel`, for bytes from outside: an index that is not in its array raises `IndexError`."""
    return _kept(function, bounded_inlined(function))


def bounded_inlined(function: _Function) -> _Function:
    """As `inlined`, for bytes from outside: an index that is not in its array raises `IndexError`."""
    return numba.njit(nogil=True, boundscheck=True)(function)  # type: ignore[no-any-return]


def _kept(function: _Function, compiled: Any) -> _Function:
    if is_jitted(compiled):  # not with NUMBA_DISABLE_JIT
        if not isinstance(getattr(compiled, "_cache", None), caching.NullCache):
            raise ImportError(f"numba {numba.__version__} keeps no `_cache` in a dispatcher: {_INSTALL}")
        compiled._cache = _KernelCache(function)
    return compiled  # type: ignore[no-any-return]


_INSTALL = "kernels could come from a cache of other sources. Install one of the versions that pyproject.toml names."


class _KernelFiles(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """Where a kernel lies. Numba asks for the directory as ever: in the tree, the user's, or NUMBA_CACHE_DIR."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.made_of = made_of(Path(inspect.getfile(function)))[:16]

    @property
    def filename_base(self) -> str:
        # In the name and not in the index: Numba writes the index before the code, so that a worker that fell between
        # the two would leave the new hash with the old code.
        return f"{super().filename_base}-{self.made_of}"


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _KernelFiles

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        if self._impl.made_of not in getattr(self._cache_file, "_index_path", ""):
            raise ImportError(f"numba {numba.__version__} names the files of its cache in another way: {_INSTALL}")

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)
        name, _, place = self._impl.filename_base.partition("-")  # "features.advance", "57.py311-<hash>"
        python = place.split(".")[1].split("-")[0]
        for file in Path(self.cache_path).glob(f"{name}-*.{python}*.nb[ic]"):
            if self._impl.made_of not in file.name:
                file.unlink(missing_ok=True)  # who still needs it compiles again


@functools.cache
def made_of(file: Path) -> str:
    """Return the hash of what the kernels of a module are made of: its source, and all that it imports of ours."""
    if file.resolve().relative_to(_ROOT).parts[0] not in PACKAGES:
        raise ValueError(f"{file} has a kernel: add its package to streams.compiled.PACKAGES, which has {PACKAGES}")
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.llvm_version_info}".encode())
    for source in own_imports(file.resolve()):
        digest.update(f"{source.relative_to(_ROOT).as_posix()} {_read(source)[0]}".encode())
    return digest.hexdigest()


def own_imports(file: Path) -> list[Path]:
    """Return a module's file and those of all that it imports of `PACKAGES`, however indirectly; runs none of them."""
    found, todo = {file}, [file]
    while todo:
        more = _read(todo.pop())[1] - found
        found |= more
        todo.extend(more)
    return sorted(found)


@functools.cache
def _read(file: Path) -> tuple[str, frozenset[Path]]:
    """Return the hash of a source and the files of ours that it imports itself."""
    source = file.read_bytes()
    imported: set[Path] = set()
    for module, names in _IMPORT.findall(source.decode()):
        words = re.findall(r"[\w.]+", names)
        for name in (module, *(f"{module}.{word}" for word in words)) if module else words:
            imported.update(_files(name))
    return hashlib.sha256(source).hexdigest(), frozenset(imported)


@functools.cache
def _files(name: str) -> tuple[Path, ...]:
    """Return the files of a dotted name, which may end with something in a module: its packages, and the module."""
    package, _, last = name.rpartition(".")
    if not package:
        return (_ROOT / name / "__init__.py",) if name in PACKAGES else ()
    above = _files(package)
    if not above or above[-1].name != "__init__.py":
        return above
    place = above[-1].with_name(last)
    return (*above, *(file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()))
