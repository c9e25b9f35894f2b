"""From runs to figures: medians with their range, ratios to linkcast, and the table of docs/peers.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.run import Run
from streams.contract import LinkcastError

OURS = "linkcast"
ROUNDS_OF_A_RANGE = 3
"""With fewer, least and most say nothing of the noise."""
BEGIN, END = "<!-- peers begin -->", "<!-- peers end -->"
_SPREAD = ("cpu_us", "events_per_s", "broker_cpu_us", "rss_mb", "first_output_s", "span_s", "busy_other", "steal")


class NoPlace(LinkcastError):
    """A page has no place for the table."""


def engine_figures(runs: Sequence[Run], *, noise_max: float) -> dict[str, Any]:
    """Return median, least and most of each figure over an engine's rounds."""
    figures: dict[str, Any] = {"rounds": len(runs), "noisy": sum(run.noise > noise_max for run in runs)}
    for name in _SPREAD:
        values = [getattr(run, name) for run in runs]
        figures[name] = {
            "median": _rounded(statistics.median(values)), "min": _rounded(min(values)), "max": _rounded(max(values)),
        }  # fmt: skip
    figures["events"] = sum(run.events for run in runs)
    figures["checked"] = sum(run.checked for run in runs)
    return figures


def _rounded(value: float) -> float:
    return round(value) if value >= 1_000 else round(value, 2)


def ratios(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, float | bool]:
    """Return each engine's CPU per event over linkcast's, and whether the ranges (of 3 rounds or more) lie apart.

    >>> def cpu(*of): return {"rounds": 5, "cpu_us": dict(zip(("min", "median", "max"), of))}
    >>> ratios({"linkcast": cpu(4.0, 5.0, 6.0), "quix": cpu(40.0, 50.0, 60.0), "flink": cpu(5.5, 7.0, 8.0)})
    {'quix': 10.0, 'quix_resolved': True, 'flink': 1.4, 'flink_resolved': False}
    """
    ours = engines.get(OURS, {}).get("cpu_us")
    is_range = all(figures.get("rounds", ROUNDS_OF_A_RANGE) >= ROUNDS_OF_A_RANGE for figures in engines.values())
    found: dict[str, float | bool] = {}
    for name, figures in engines.items():
        theirs = figures.get("cpu_us")
        if ours and theirs and name != OURS:
            found[name] = round(theirs["median"] / ours["median"], 2)
            found[f"{name}_resolved"] = is_range and (theirs["min"] > ours["max"] or theirs["max"] < ours["min"])
    return found


def table(figures: Mapping[str, Any]) -> str:
    """Return the Markdown table of a comparison, with where and when it was made."""
    rows = [_row(name, engine, figures) for name, engine in figures["engines"].items()]
    kills = [_kill_row(name, kill) for name, kill in figures.get("kills", {}).items()]
    parts = [_where(figures), "", *_HEAD, *rows]
    if kills:
        parts += ["", *_KILL_HEAD, *kills]
    return "\n".join(parts) + "\n"


def write_into(page: Path, text: str) -> None:
    """Put `text` between the two marks of a page, in place of what is there; raises `NoPlace` without them."""
    whole = page.read_text("utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise NoPlace(f"{page} has no lines '{BEGIN}' and '{END}' to put the table between")
    page.write_text(f"{before}{begin}\n{text}{end}{after}", "utf-8")


_HEAD = (
    "| engine | CPU µs/event | over linkcast's | events/s, one core | RSS MB | first output s | broker µs/event |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
_KILL_HEAD = (
    "| after kill −9 and a new start | outputs | lost | repeated | wrong | s to the next output |",
    "| --- | --- | --- | --- | --- | --- |",
)


def _where(figures: Mapping[str, Any]) -> str:
    rounds = figures["rounds"]
    noisy = {name: engine["noisy"] for name, engine in figures["engines"].items() if engine.get("noisy")}
    said = f"; **noisy rounds** {noisy}" if noisy else ""
    fewer = [name for name, engine in figures["engines"].items() if engine.get("rounds", rounds) < rounds]
    of = f"{rounds} rounds" + "".join(f", {figures['engines'][name]['rounds']} of {name}" for name in fewer)
    offered = f", {figures['offered']:,} events/s offered" if figures.get("offered") else ""
    return (
        f"{figures['date']}, {figures['machine']}, Kafka {figures['kafka']}, Python {figures['python']}{offered}: "
        f"median [least–most] of {of}{said}."
    )


def _row(name: str, engine: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    label = f"{name} ({engine['version']})" if "version" in engine else name
    if "cpu_us" not in engine:
        why = f"failed: {engine['failed']}" if "failed" in engine else f"not installed: {engine['not_installed']}"
        return f"| {label} | {_in_a_line(why)} | | | | | |"
    spread = [_spread(engine[key]) for key in ("cpu_us", "events_per_s", "rss_mb", "first_output_s", "broker_cpu_us")]
    ratio = "1" if name == OURS else f"{figures[name]}" if name in figures else ""
    if figures.get(f"{name}_resolved") is False:
        ratio += " (not resolved)"
    return f"| {label} | {spread[0]} | {ratio} | " + " | ".join(spread[1:]) + " |"


def _in_a_line(why: str) -> str:
    first, *rest = why.splitlines()
    return f"{first[:80]} … {rest[-1].strip()[:200]}" if rest else first


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:,} [{value['min']:,}–{value['max']:,}]"


def _kill_row(name: str, kill: Mapping[str, Any]) -> str:
    if "failed" in kill:
        return f"| {name} | failed: {_in_a_line(kill['failed'])} | | | | |"
    return "| " + " | ".join(f"{kill[key]:,}" if key != "name" else name for key in _KILL_KEYS) + " |"


_KILL_KEYS = ("name", "outputs", "lost", "repeated", "wrong", "restart_s")
