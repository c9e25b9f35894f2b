"""`worker --processes N`: N workers as children of one command; one that falls is started again, all end together."""

import asyncio
import ctypes
import signal
import sys
import time
from collections.abc import Sequence

import click

from streams.contract import LinkcastError

RESTART_S, RESTART_S_MAX = 1.0, 30.0
WELL_AFTER_S = 60.0
STOP_S = 40.0
_PR_SET_PDEATHSIG = 1
BROKE = 70  # EX_SOFTWARE: Python's own status for a traceback is 1, that of a failure with a name
_CHILD = f"""
import sys, traceback
from infra.command import main
try:
    main()
except Exception:
    traceback.print_exc()
    sys.exit({BROKE})
"""


class WorkerGaveUp(LinkcastError):
    """A worker ended by a failure that a restart doesn't mend."""


async def supervise(arguments: Sequence[Sequence[str]], stop: asyncio.Event) -> None:
    """Run `linkcast ARGUMENTS…` once for each of `arguments` until `stop`, then end them by SIGTERM.

    A child that is killed or breaks (status 70, and a traceback) is started again after 1 s, 2 s … 30 s. One that ends
    by a failure with a name (status 1 or 2, and its line on stderr) ends all, and raises `WorkerGaveUp`.
    """
    running = [asyncio.create_task(_keep(i, of_one, stop)) for i, of_one in enumerate(arguments)]
    try:
        await asyncio.gather(*running)
    finally:
        stop.set()
        await asyncio.gather(*running, return_exceptions=True)


async def _keep(i: int, arguments: Sequence[str], stop: asyncio.Event) -> None:
    pause_s = RESTART_S
    while not stop.is_set():
        began_at = time.monotonic()
        status = await _run(arguments, stop)
        if stop.is_set():
            return
        if status in (1, 2):
            stop.set()
            raise WorkerGaveUp(f"worker {i} ended with status {status}: its line is above. All workers were stopped.")
        if time.monotonic() - began_at > WELL_AFTER_S:
            pause_s = RESTART_S
        click.echo(f"worker {i} ended with status {status}: starting it again in {pause_s:g} s", err=True)
        await _wait(stop, pause_s)
        pause_s = min(RESTART_S_MAX, 2 * pause_s)


async def _run(arguments: Sequence[str], stop: asyncio.Event) -> int:
    """Run one child to its end, and return its status; ends it when `stop` is set."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", _CHILD, *arguments, preexec_fn=_end_with_parent)
    ended = asyncio.create_task(child.wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            child.terminate()
            await asyncio.wait({ended}, timeout=STOP_S)
    finally:
        stopping.cancel()
        if not ended.done():
            child.kill()
    return await ended


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies: an orphan would keep the name of its successor in the group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
