"""Files from outside, read within bounds, and files of ours, written whole or not at all."""

import errno
import os
import secrets
import stat
from pathlib import Path


def read_regular(path: Path, size_max: int) -> bytes:
    """Return the first `size_max` bytes of a regular file; raises `OSError`, with words in `strerror`.

    Waits for nobody: a FIFO, a device or a socket is refused. Symbolic links are followed, for Kubernetes mounts
    secrets and settings as such.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL or half a surrogate in the name
        raise OSError(errno.EINVAL, "no name of a file") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(file, "rb") as opened:
        return opened.read(size_max)


def write_whole(path: Path, content: bytes, *, mode: int, replace: bool) -> None:
    """Write a file that is under its name whole, and on the disk, or not at all; `OSError` names it.

    Without `replace`, `FileExistsError` where there is one already: of two who write at once the first one's stays.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            scratch.replace(path)
        else:
            path.hardlink_to(scratch)
        sync_folder(path.parent)
    except OSError as error:
        # A write names no file, and the scratch file's name says nothing.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
