"""The demo's child processes: linkcast's own commands, each ended with the block that started it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from streams.contract import LinkcastError

STOP_S = 20.0


class ChildFailed(LinkcastError):
    """One of linkcast's own commands ended when it should not have."""


class Child:
    """A linkcast command on its own, with its output in a file."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self.log = process, log

    def last_line(self) -> str:
        """Return the last thing that it said."""
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def check(self) -> None:
        """Raise `ChildFailed` if it has ended badly."""
        if self.process.poll():
            raise ChildFailed(
                f"linkcast {' '.join(map(str, self.process.args[3:4]))} ended with {self.process.returncode}: "  # type: ignore[index]
                f"{self.last_line()}"  # the log itself goes with the demo's folder
            )


@contextlib.contextmanager
def linkcast(*arguments: str, home: Path, log: Path) -> Iterator[Child]:
    """Run `linkcast ARGUMENTS…` beside this process until the block ends."""
    code = "from infra.command import main; main()"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command, and no shell
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"LINKCAST_HOME": str(home)},
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its children in order
        )
    try:
        yield Child(process, log)
    finally:
        end(process, within_s=STOP_S)


def end(process: "subprocess.Popen[bytes]", *, within_s: float) -> None:
    """End a process that leads a session of its own, by force if it takes longer, and what it started with it."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Its pools' processes notice only later that it is gone, and hold the folder they run in until then.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
