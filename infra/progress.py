"""What people see on stderr while something takes long."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

T = TypeVar("T")
_SAY_EVERY_S = 2.0


@contextmanager
def compiling() -> Iterator[None]:
    """Say that the kernel is being compiled, if that takes longer than loading it from its cache would."""
    start = time.perf_counter()
    said = threading.Event()

    def say() -> None:
        said.set()
        click.echo("compiling the kernel (once; cached for the next run) …", err=True)

    timer = threading.Timer(1.5, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            click.echo(f"compiled in {time.perf_counter() - start:.0f} s", err=True)


@contextmanager
def step(what: str) -> Iterator[Callable[[float], None]]:
    """Announce a step of a long command and say how long it took; its block may tell the share done, 0 to 1."""
    click.echo(f"{what} …", err=True)
    start = time.perf_counter()
    yield seldom(lambda share: click.echo(f"  {share:4.0%}", err=True))
    click.echo(f"  done in {time.perf_counter() - start:.1f} s", err=True)


def seldom(say: Callable[[T], None]) -> Callable[[T], None]:
    """Return what may be told as often as one likes, and says it every 2 s."""
    said_at = time.perf_counter()

    def tell(news: T) -> None:
        nonlocal said_at
        now = time.perf_counter()
        if now - said_at >= _SAY_EVERY_S:
            said_at = now
            say(news)

    return tell
