"""The demo as it looks: steps, counts, the ports most at risk, and open incidents beside what really happens.

Of fixed height, and a port stays on its row while it is among those shown, so that nothing jumps.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from infra.demo.tally import Seen, Tally
from offline.dataset.targets import HORIZON_MS
from offline.report.calls import report
from offline.simulator.truth import Incident

ROWS_MAX = 12
MINUTE_MS = 60_000
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PORT_WIDTH, CLASS_WIDTH = 21, 27  # a GUID and its port; the longest class
WIDE = 110  # columns, from which there is room for the true class


class Step(NamedTuple):
    """One step of the demo: under way while `took` is empty, and then with a note of how it goes."""

    note: Callable[[], RenderableType]
    took: str = ""


class View:
    """Draws the state of the demo; `rich` calls it whenever it refreshes.

    Parameters
    ----------
    steps
        What will be done, in order; shown from the start.
    started
        When the user asked for the demo (monotonic clock, s).
    """

    def __init__(self, tally: Tally, *, steps: Sequence[str], started: float) -> None:
        self.tally, self._started = tally, started
        self._steps: dict[str, Step | None] = dict.fromkeys(steps)
        self.incidents: Sequence[Incident] = ()
        self.ports: frozenset[str] = frozenset()  # those whose truth is known: the simulated ones
        self.say: Callable[[str], None] = lambda line: None
        self._at_risk: list[str | None] = []
        self._open: list[str | None] = []

    @contextlib.contextmanager
    def step(self, name: str, note: Callable[[], RenderableType] = str) -> Iterator[None]:
        """Show a step as under way while the block runs, with its note; then how long it took."""
        start = time.monotonic()
        self._steps[name] = Step(note)
        self.say(f"{name} …")
        yield
        took = f"{time.monotonic() - start:.1f} s"
        self._steps[name] = Step(note, took)
        self.say(f"  done in {took}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Besides the steps: two borders, five lines of counts, two titles, two headers, and one left for the cursor.
        rows = (console.height - len(self._steps) - 2 - 5 - 2 - 2 - 1) // 2
        rows = max(1, min(ROWS_MAX, rows))
        parts: list[RenderableType] = [self._step_table(), Rule(style="dim"), self._counts(), *self._ports(rows)]
        parts += self._open_incidents(rows, is_wide=options.max_width >= WIDE)
        elapsed = f"{time.monotonic() - self._started:.0f} s"
        yield Panel(Group(*parts), title="linkcast demo", subtitle=elapsed, border_style="cyan")

    def _step_table(self) -> Table:
        table = _grid(0, 0, 1, 0)
        table.columns[3].justify = "right"
        for name, step in self._steps.items():
            if step is None:
                table.add_row(Text("·", "dim"), Text(name, "dim"))
            elif step.took:
                table.add_row(Text("✓", "green"), name, "", Text(step.took, "dim"))
            else:
                spin = SPINNER[int(time.monotonic() * 10) % len(SPINNER)]
                table.add_row(Text(spin, "yellow"), name, step.note())
        return table

    def _counts(self) -> Table:
        tally = self.tally
        at, sent, dead, calls = "not begun", "", "none", ""
        if tally.sent_until_ms:
            at = f"{_utc(tally.sent_until_ms):%a %d %b %H:%M} UTC"
        if tally.sent:
            sent = f"{tally.sent:,} sent, {tally.predictions:,} scored, {tally.events_per_s:,.0f} a second"
            calls = self._calls()
        if tally.dead:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(tally.dead.items(), key=lambda r: -r[1]))
            dead = f"{tally.dead.total():,}: {reasons}"
        table = _grid(0, 1)
        table.columns[0].style = "dim"
        for name, value in (("event time", at), ("events", sent), ("dead letters", dead), ("incidents", calls)):
            table.add_row(name, value)
        return table

    def _calls(self) -> str:
        begun = {i.incident for i in self.incidents if i.start_ms <= self.tally.sent_until_ms}
        found = report(self.tally.calls, self.incidents)
        called = len(found.called_before.keys() & begun)
        return f"{called:,} of {len(begun):,} called before they began, {len(found.false_alarms):,} false alarms"

    def _ports(self, rows: int) -> tuple[Rule, Table]:
        newest = self.tally.newest
        riskiest = sorted(newest.values(), key=lambda seen: (-seen.risk, seen.stream_id))[:rows]
        self._at_risk = kept_in_place(self._at_risk, [seen.stream_id for seen in riskiest], rows)
        table = _grid(PORT_WIDTH, 4, 13, 1, header=("port", "risk", "", "class"))
        table.columns[1].justify = "right"
        for stream_id in self._at_risk:
            if stream_id is None:
                table.add_row("")
            else:
                seen = newest[stream_id]
                table.add_row(stream_id, f"{seen.risk:.0f}", _bar(seen.risk), seen.class_)
        return _title("ports most at risk", "" if newest else "none scored yet"), table

    def _open_incidents(self, rows: int, *, is_wide: bool) -> tuple[Rule, Table]:
        # A copy, since the tally goes on while we draw.
        opened = {e: seen for e, seen in self.tally.open.copy().items() if seen.stream_id in self.ports}
        newest = sorted(opened, key=lambda episode: (-opened[episode].ts, episode))[:rows]
        self._open = kept_in_place(self._open, newest, rows)
        header = ("port", "called", "as", "what happened", "as" if is_wide else "")
        table = _grid(PORT_WIDTH, 6, CLASS_WIDTH, 19, 1, header=header)
        for episode in self._open:
            if episode is None:
                table.add_row("")
            else:
                seen = opened[episode]
                when, incident = self._truth(seen)
                true_class = incident.class_ if is_wide and incident else ""
                table.add_row(seen.stream_id, f"{_utc(seen.ts):%H:%M}", seen.class_, when, true_class)
        return _title("newest open incidents", "" if opened else "none called yet"), table

    def _truth(self, opened: Seen) -> tuple[Text, Incident | None]:
        now = self.tally.sent_until_ms
        for incident in self.incidents:
            lead_ms = incident.start_ms - opened.ts
            if opened.stream_id not in incident.streams or incident.end_ms < opened.ts or lead_ms > HORIZON_MS:
                continue
            if lead_ms <= 0:
                return Text("was under way", "yellow"), incident
            if incident.start_ms <= now:
                return Text(f"came {lead_ms / MINUTE_MS:.0f} min later", "bold green"), incident
            return Text(f"comes in {(incident.start_ms - now) / MINUTE_MS:.0f} min", "bold cyan"), incident
        return Text("false alarm", "red"), None


@contextlib.contextmanager
def live(view: View) -> Iterator[None]:
    """Show the view on stderr while the block runs: drawn on a terminal, elsewhere one line a step."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(view, console=console, refresh_per_second=4):
            yield
    else:
        view.say = lambda line: console.print(line, highlight=False)
        yield


def kept_in_place(shown: Sequence[str | None], wanted: Sequence[str], rows: int) -> list[str | None]:
    """Return `rows` rows of what is wanted, each of what was shown already on the row it had.

    >>> kept_in_place(["a", "b", "c"], ["d", "c", "a"], 4)
    ['a', 'd', 'c', None]
    """
    kept = [key if key in wanted else None for key in shown[:rows]]
    kept += [None] * (rows - len(kept))
    new = iter([key for key in wanted if key not in kept])
    return [key if key is not None else next(new, None) for key in kept]


def _grid(*widths: int, header: Sequence[str] = ()) -> Table:
    """Return a table without lines; a width of 1 takes what is left, 0 what is needed. Nothing wraps."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.show_header, table.header_style = bool(header), "dim"
    for width, name in zip(widths, header or [""] * len(widths), strict=True):
        wide = width if width > 1 else None
        table.add_column(name, width=wide, ratio=1 if width == 1 else None, no_wrap=True, overflow="ellipsis")
    return table


def _title(name: str, note: str) -> Rule:
    return Rule(Text.assemble((name, "bold"), (f"  {note}" if note else "", "dim")), align="left", style="dim")


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _bar(risk: float) -> Text:
    colour = "red" if risk >= 80 else "yellow" if risk >= 60 else "green"
    return Text("━" * round(risk / 8), colour)
