"""`linkcast demo`: the main job, whole, on one machine."""

import time
from pathlib import Path

import click


@click.command()
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5), help="To feed the fabric in.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of model and fabric.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the figures.")
def command(seconds: float, seed: int, json_file: Path | None) -> None:
    """Run the main job on this machine, with a live view and a summary.

    Starts Apache Kafka, trains a model on simulated fabrics, starts a worker, and publishes real counters of real
    devices, some bad records, and a day and a half of another fabric in fast motion, with fault rates raised so that
    something happens. Shows who is called before it fails. Every event sent is accounted for, or it exits with 1.
    Everything it starts ends with it, after Ctrl-C as well.

    \b
        linkcast demo --seconds 30 --json demo.json
    """
    started = time.monotonic()
    import asyncio
    import logging
    import signal
    import sys

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it would write across the view

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        ends.append(signal.SIGHUP)

    def end(number: int, frame: object) -> None:
        """Leave through every block that has something to end; once, so that a second Ctrl-C cuts none short."""
        for each in ends:
            signal.signal(each, signal.SIG_IGN)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            sys.exit(128 + number)
        # On a turn of its own: raised here it would land in whatever runs just then, and a finalizer swallows it.
        loop.call_soon_threadsafe(sys.exit, 128 + number)

    for each in ends:
        signal.signal(each, end)

    import msgspec

    from infra.demo.run import run_demo

    summary = run_demo(seconds=seconds, seed=seed, started=started)
    if json_file:
        json_file.write_bytes(msgspec.json.encode(summary))
    lead = "none" if summary.median_lead_s is None else f"{summary.median_lead_s / 60:.0f} min"
    click.echo(
        f"{summary.events_sent:,} events sent: {summary.predictions:,} predictions, {summary.dead_letters:,} dead "
        f"letters, {summary.repeats:,} repeats, {summary.late:,} late; nothing lost.\n"
        f"{summary.incidents_called_before} of {summary.incidents_true} incidents called before they started, median "
        f"lead {lead}; {summary.false_alarms} false alarms.\n"
        f"First prediction after {summary.first_prediction_s:g} s, {summary.events_per_s:,.0f} events/s, "
        f"model {summary.model}."
    )
