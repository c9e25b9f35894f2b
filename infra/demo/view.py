"""The demo as it looks: steps, throughput, the ports most at risk, open incidents with their lead, dead letters."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.demo.tally import Seen, Tally
from offline.simulator.truth import Incident

ROWS = 8
_MINUTE_MS = 60_000
_HORIZON_MIN = 60


class View:
    """Draws the state of the demo; `rich` calls it whenever it refreshes."""

    def __init__(self, tally: Tally, elapsed_s: Callable[[], float]) -> None:
        self._tally, self._elapsed_s = tally, elapsed_s
        self.steps: list[tuple[str, str]] = []
        self.incidents: Sequence[Incident] = ()

    def __rich__(self) -> RenderableType:
        tally = self._tally
        parts: list[RenderableType] = [self._steps()]
        if tally.sent:
            parts += [self._counts(), self._ports(), self._open_incidents()]
        return Panel(Group(*parts), title="linkcast demo", subtitle=f"{self._elapsed_s():.0f} s", border_style="cyan")

    def _steps(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for name, state in self.steps:
            mark = Text("✓", "green") if state else Text("…", "yellow")
            table.add_row(mark, name, Text(state, "dim"))
        return table

    def _counts(self) -> RenderableType:
        tally = self._tally
        table = Table.grid(padding=(0, 3))
        at = datetime.fromtimestamp(tally.sent_until_ms / 1000, UTC)
        dead = ", ".join(f"{reason} {n}" for reason, n in tally.dead.most_common(5)) or "none"
        table.add_row("event time", f"{at:%a %d %b %H:%M} UTC", "sent", f"{tally.sent:,}")
        table.add_row("predictions", f"{tally.predictions:,}", "a second", f"{tally.events_per_s:,.0f}")
        table.add_row("dead letters", f"{tally.dead.total():,}", "", Text(dead, "dim"))
        return Panel(table, border_style="dim")

    def _ports(self) -> RenderableType:
        table = Table(title="ports by risk", expand=True, border_style="dim", title_justify="left")
        for name, justify in (("port", "left"), ("risk", "right"), ("", "left"), ("class", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for seen in sorted(self._tally.newest.values(), key=lambda seen: -seen.risk)[:ROWS]:
            table.add_row(seen.stream_id, f"{seen.risk:.0f}", _bar(seen.risk), seen.class_)
        return table

    def _open_incidents(self) -> RenderableType:
        table = Table(title="open incidents", expand=True, border_style="dim", title_justify="left")
        for name in ("port", "called as", "risk", "opened", "what really happens"):
            table.add_column(name)
        newest = sorted(self._tally.open.items(), key=lambda item: -_opened_at(item[0]))[:ROWS]
        for episode, seen in newest:
            opened = datetime.fromtimestamp(_opened_at(episode) / 1000, UTC)
            table.add_row(
                seen.stream_id, seen.class_, f"{seen.risk:.0f}", f"{opened:%H:%M}", self._truth(episode, seen)
            )
        return table

    def _truth(self, episode: str, seen: Seen) -> Text:
        opened_at, now = _opened_at(episode), self._tally.sent_until_ms
        for incident in self.incidents:
            lead_min = (incident.start_ms - opened_at) / _MINUTE_MS
            if seen.stream_id not in incident.streams or incident.end_ms < opened_at or lead_min > _HORIZON_MIN:
                continue
            if lead_min <= 0:
                return Text(f"{incident.class_}, under way when called", "yellow")
            if incident.start_ms <= now:
                return Text(f"{incident.class_}, called {lead_min:.0f} min before", "bold green")
            return Text(f"{incident.class_} in {(incident.start_ms - now) / _MINUTE_MS:.0f} min", "bold cyan")
        return Text("nothing (a false alarm)", "red")


def _opened_at(episode: str) -> int:
    return int(episode.rpartition("@")[2])


def _bar(risk: float) -> Text:
    colour = "red" if risk >= 80 else "yellow" if risk >= 60 else "green"
    return Text("█" * round(risk / 5), colour)
