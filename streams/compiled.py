"""Kernels: Python functions that Numba compiles, kept on disk under all the sources that they were made of.

Numba keeps a compiled function under the hash of its own file. But other modules' functions are compiled into it and
their constants are frozen in it: what they said when it was compiled would run for ever. Here it is kept under its own
module, all that this imports of ours however indirectly, and the versions of Numba and LLVM; Numba adds the processor.
No source is missing, for what a kernel is made of reaches its module by an import.
"""

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
from numba.core import caching
from numba.extending import is_jitted

import streams
from streams.contract import LinkcastError

PACKAGES = ("streams", "online", "offline", "bench")
"""Those that have kernels. A kernel anywhere else is refused, for its imports of there would not be followed."""

_ROOT = Path(streams.__file__).resolve().parents[1]
# A line of prose that begins like an import costs a look for a file that isn't there.
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+)?import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_Function = TypeVar("_Function", bound=Callable[..., Any])


class NumbaRefused(LinkcastError):
    """A numba whose cache works in another way: kernels could come from other sources than those here."""


def kernel(function: _Function) -> _Function:
    """Compile a function that Python calls at its first call, without the interpreter's lock; keep it on disk.

    Raises `NumbaRefused`.
    """
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


def _kept(function: _Function, dispatcher: Any) -> _Function:
    if is_jitted(dispatcher):  # not with NUMBA_DISABLE_JIT
        cache = _KernelCache(function)
        # Private names of numba 0.66 to 0.68: its public way of a cache has no place for a key.
        if not hasattr(dispatcher, "_cache") or cache.made_of not in getattr(cache._cache_file, "_index_path", ""):
            raise NumbaRefused(
                f"numba {numba.__version__} keeps kernels in a way that linkcast doesn't know, and could run old ones: "
                "install the version that linkcast's own requirements name"
            )
        dispatcher._cache = cache
    return dispatcher  # type: ignore[no-any-return]


class _KernelFiles(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """Where a kernel lies. Numba chooses the folder as ever: NUMBA_CACHE_DIR, beside the source, or the user's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.made_of = made_of(Path(inspect.getfile(function)))[:16]

    @property
    def filename_base(self) -> str:
        # In the name and not in the index: numba writes the index before the code, so that a worker that fell between
        # the two would leave the new hash with the old code.
        return f"{super().filename_base}-{self.made_of}"


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _KernelFiles

    @property
    def made_of(self) -> str:
        return str(self._impl.made_of)

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)
        name = self._impl.filename_base.partition("-")[0]  # "features.advance" of "features.advance-57.py311-<hash>"
        for file in Path(self.cache_path).glob(f"{name}-*.nb[ic]"):
            if self.made_of not in file.name:
                with contextlib.suppress(OSError):  # another's, or in use: it takes room, and nobody runs it
                    file.unlink()


@functools.cache
def made_of(file: Path) -> str:
    """Return the hash of what the kernels of a module are made of: its source, and all that it imports of ours."""
    if not any(file.resolve().is_relative_to(_ROOT / package) for package in PACKAGES):
        raise ValueError(f"{file} has a kernel: add its package to streams.compiled.PACKAGES, which has {PACKAGES}")
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.llvm_version_info}".encode())
    for source in own_imports(file.resolve()):
        digest.update(f"{source.relative_to(_ROOT).as_posix()} {_read(source)[0]}".encode())
    return digest.hexdigest()


def own_imports(file: Path, *, without: AbstractSet[Path] = frozenset()) -> list[Path]:
    """Return a module's file and those of all that it imports of `PACKAGES`, however indirectly; runs none of them.

    The files `without` are left out, and so is what only they import.
    """
    found, todo = {file}, [file]
    while todo:
        more = _read(todo.pop())[1] - found - without
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
