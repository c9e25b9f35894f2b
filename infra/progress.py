"""What people see on stderr while something takes long."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def compiling() -> Iterator[None]:
    """Say that the kernel is being compiled, if that takes longer than its load from the cache would."""
    import threading

    start = time.perf_counter()
    said = threading.Event()

    def say() -> None:
        said.set()
        click.echo("compiling the kernel (once; cached for the next run) …", err=True)

    timer = threading.Timer(2.0, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            print(f"compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr)
