"""Make docs/demo.svg: the demo's view, three quarters through a real run.

.venv/bin/python docs/make_picture.py
"""

import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from infra.demo.run import run_demo
from infra.demo.view import View

SECONDS = 60.0
PICTURE = Path(__file__).with_name("demo.svg")


@contextlib.contextmanager
def photographed(view: View) -> Iterator[None]:
    """Draw the view onto `PICTURE` three quarters of `SECONDS` after the first prediction."""
    console = Console(record=True, force_terminal=True, width=110, height=36, file=io.StringIO())

    def photograph() -> None:
        while not view.tally.first_prediction_at:
            time.sleep(0.1)
        time.sleep(0.75 * SECONDS)
        console.print(view)
        # Without the font that rich would have the reader's browser fetch: any of fixed width will do.
        plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        console.save_svg(str(PICTURE), title="make demo", code_format=plain)

    threading.Thread(target=photograph, daemon=True).start()
    yield


if __name__ == "__main__":
    print(run_demo(seconds=SECONDS, seed=1, started=time.monotonic(), shown=photographed))
