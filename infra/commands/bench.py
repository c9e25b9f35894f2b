"""`linkcast bench`: the figures of docs/benchmarks.md, measured here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from infra.options import json_option
from streams.contract import LinkcastError


class NoCheckout(LinkcastError):
    """The benchmarks are not here."""


class WrongAnswer(LinkcastError):
    """What was measured is not what it should compute."""


class NotHeld(LinkcastError):
    """The load was not what it should be: the machine was busy."""


@click.group()
def command() -> None:
    """Measure the figures of docs/benchmarks.md on this machine.

    Each benchmark has a fixed seed and checks its answer. Needs a checkout of linkcast: bench/ is in no wheel.
    """


model_option = click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Bundle as 'linkcast train' leaves it, beside its HOME/keys; default: a small one is trained first.",
)
streams_option = click.option(
    "--streams", type=click.IntRange(1), default=10_000, show_default=True, help="Ports that report in turn."
)


@command.command()
@click.option("--events", type=click.IntRange(1_000), default=300_000, show_default=True)
@click.option("--sweep", type=click.IntRange(1, 64), default=1, show_default=True, help="Events of a node in a record.")
@click.option("--arrow", is_flag=True, help="Sweeps as Arrow record batches, not JSON.")
@click.option("--workers", type=click.IntRange(1, 2), default=1, show_default=True, help="Of one group; two: no pin.")
@model_option
@json_option
def hop(events: int, sweep: int, arrow: bool, workers: int, model: Path | None, as_json: bool) -> None:
    """Take events from topic metrics to predictions, on a real broker and one core.

    Starts a broker of its own in a temporary folder, fills it, and pins one worker to one core (Linux): decode, 24
    features, label, two models, a prediction per event. Prints events_per_s, cpu_us_per_event and the µs of each
    stage; exits with 1 unless each event has one prediction by the model.

    \b
        linkcast bench hop --events 1000000 --json
    """
    with _checkout():
        from bench.hop import bench
    _end_children_on_sigterm()
    _report(bench(events=events, sweep=sweep, as_arrow=arrow, workers=workers, model=model), as_json)


@command.command()
@click.option("--rate", type=click.IntRange(1), default=10_000, show_default=True, help="Events per second.")
@click.option("--seconds", type=click.FloatRange(1.0), default=30.0, show_default=True, help="After the warm-up.")
@streams_option
@model_option
@json_option
def latency(rate: int, seconds: float, streams: int, model: Path | None, as_json: bool) -> None:
    """Time events from when they are due to when their prediction is read, at a fixed rate, on one core.

    An open loop on a broker of its own: a stall is never hidden, since the schedule doesn't wait. Prints p50_ms,
    p99_ms, p999_ms and max_ms, the same of the broker's acknowledgement and of the loader's own lateness, and
    cpu_us_per_event. Exits with 1 unless each event has exactly one prediction, and if the loader was late itself.

    \b
        linkcast bench latency --rate 10000 --json
    """
    with _checkout():
        from bench.latency import bench
    _end_children_on_sigterm()
    _report(bench(rate=rate, seconds=seconds, streams=streams, model=model), as_json)


@command.command()
@click.option("--seconds", type=click.FloatRange(1.0), default=20.0, show_default=True, help="At each rate.")
@streams_option
@model_option
@json_option
def rates(seconds: float, streams: int, model: Path | None, as_json: bool) -> None:
    """Compare what an event costs at 5,000, 20,000 and 50,000 events/s with what it costs of a backlog.

    Prints cpu_us_per_event of each and its ratio to the backlog's, one worker on one core. Exits with 1 unless each
    event has exactly one prediction, and if a rate was not held.

    \b
        linkcast bench rates --json
    """
    with _checkout():
        from bench.rates import bench
    _end_children_on_sigterm()
    _report(bench(seconds=seconds, streams=streams, model=model), as_json)


@command.command()
@click.option("--streams", type=click.IntRange(1), default=100_000, show_default=True)
@click.option(
    "--events-a-stream", type=click.IntRange(1), default=24, show_default=True, help="96 fill every pane there is."
)
@click.option(
    "--rebalance-streams", type=click.IntRange(0), default=10_000, show_default=True, help="0 leaves the rebalance out."
)
@model_option
@json_option
def recovery(streams: int, events_a_stream: int, rebalance_streams: int, model: Path | None, as_json: bool) -> None:
    """Time a worker from the start of its process to its first new prediction, and the pause of a rebalance.

    Fills a worker with streams on a broker of its own, then starts it after a clean stop (seconds) and after kill -9
    later than its snapshot (killed_seconds). Prints snapshot_bytes and stop_s, the stop with its last snapshot; then
    rebalance_pause_s, the longest gap of a partition's predictions while a second worker joins, beside steady_gap_s.

    \b
        linkcast bench recovery --streams 100000 --json
    """
    with _checkout():
        from bench.recovery import bench
    _end_children_on_sigterm()
    sizes = {"streams": streams, "events_a_stream": events_a_stream, "rebalance_streams": rebalance_streams}
    _report(bench(**sizes, model=model), as_json)


@command.command()
@click.option("--ports", type=click.IntRange(2), default=300, show_default=True, help="Of the simulated fabric.")
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Of its life.")
@json_option
def backfill(ports: int, hours: float, as_json: bool) -> None:
    """Compute features of a recording, Parquet to Parquet, on one core.

    Simulates a fabric into a temporary folder. Prints events_per_s, the same from JSON Lines and from arrays, how many
    times the specification's pandas is slower on the same rows, from arrays (times_pandas) and file to file
    (file_times_pandas), and how many features differ between the three; exits with 1 if any does.

    \b
        linkcast bench backfill --json
    """
    with _checkout():
        from bench.backfill import bench
    _report(bench(ports=ports, hours=hours), as_json)


@command.command()
@click.option("--ports", type=click.IntRange(2), default=300, show_default=True)
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Of event time.")
@json_option
def simulate(ports: int, hours: float, as_json: bool) -> None:
    """Simulate a fabric, counters to metrics, on one core.

    Writes nothing. Prints port_samples_per_s, and the hash of the events: the same seed, the same bytes.

    \b
        linkcast bench simulate --json
    """
    with _checkout():
        from bench.simulate import bench
    _report(bench(ports=ports, hours=hours), as_json)


@command.command()
@click.option(
    "--streams", type=click.IntRange(100), default=1_000_000, show_default=True, help="The most; takes 3 KB each."
)
@click.option(
    "--events", type=click.IntRange(100), default=1_000_000, show_default=True, help="At each number of streams."
)
@json_option
def memory(streams: int, events: int, as_json: bool) -> None:
    """Hold a million streams in one process, and give each of them events.

    Writes nothing. Prints bytes_per_stream, rss_bytes of the process at its largest, the kernel's CPU µs an event among
    10², 10³ … streams (us_1e2, us_1e3, …), and the largest of them by the smallest (ratio).

    \b
        linkcast bench memory --json
    """
    with _checkout():
        from bench.memory import bench
    _report(bench(streams=streams, events=events), as_json)


@command.command()
@json_option
def score(as_json: bool) -> None:
    """Score rows by both models, in batches of 1, 24 and 4,096, beside XGBoost's own predictor.

    Writes nothing. Prints µs a row (us_1, us_24, us_4096, native_us_…) and how many margins differ from XGBoost's in
    any bit; exits with 1 if any does.

    \b
        linkcast bench score --json
    """
    with _checkout():
        from bench.score import bench
    _report(bench(), as_json)


@command.command()
@json_option
def encode(as_json: bool) -> None:
    """Encode scored rows, in batches of 8,192 and 24, beside the way with an object for each of them.

    Writes nothing. Prints µs of CPU a row of rendering predictions, packing them into record batches, and framing
    features (render_us_…, pack_us_…, features_us_…, before_…), and how many bytes differ; exits with 1 if any does.

    \b
        linkcast bench encode --json
    """
    with _checkout():
        from bench.encode import bench
    _report(bench(), as_json)


@command.command()
@click.option("--events", type=click.IntRange(8_192), default=65_536, show_default=True)
@json_option
def decode(events: int, as_json: bool) -> None:
    """Decode fetches of metric events and find their slots, beside msgspec with an object an event.

    Writes nothing. Prints the µs of CPU an event for fetches of 8,192 and of 24 records, of JSON sweeps of 32 and 64
    and of Arrow sweeps of 64 (us_…, msgspec_us_…), and how many fields differ; exits with 1 if any does.

    \b
        linkcast bench decode --json
    """
    with _checkout():
        from bench.decode import bench
    _report(bench(events=events), as_json)


@command.command()
@click.option("--events", type=click.IntRange(1_000), default=1_200_000, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=5, show_default=True, help="Workers ended by kill -9.")
@json_option
def verify(events: int, kills: int, as_json: bool) -> None:
    """Kill workers on their way through a backlog, and compare every feature that they wrote with a replay.

    Starts a broker of its own in a temporary folder. Prints how many rows were compared, and how many features differ
    in any bit; exits with 1 if any does.

    \b
        linkcast bench verify --json
    """
    with _checkout():
        from bench.verify import bench
    _end_children_on_sigterm()
    _report(bench(events=events, kills=kills), as_json)


@command.command()
@click.option("--seed", type=int, default=20_261_123, show_default=True, help="Of every choice.")
@json_option
def faults(seed: int, as_json: bool) -> None:
    """Break real workers on real brokers in every way we know, and compare all that they left with a replay.

    The suite of 'make test-faults', where a single kind can be chosen; takes about half an hour. Prints what was
    tried, lost, wrong and repeated; exits with 1 if an output is lost, any output, state or offset wrong, or one
    repeated where it should come exactly once.

    \b
        linkcast bench faults --json
    """
    import json

    with _checkout():
        from bench.faults import bench, failed, table
    _end_children_on_sigterm()
    figures = bench(seed=seed)
    click.echo(table(figures), err=True)
    if as_json:
        click.echo(json.dumps(figures))
    if failed(figures):
        raise WrongAnswer("a fault did harm: see the table above, and run its kind alone by 'make test-faults'")


def _end_children_on_sigterm() -> None:
    """Make SIGTERM an exit as any other: the broker and the workers end with it."""
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


@command.command()
@click.option(
    "--engines",
    metavar="NAME,…",
    default="bare,linkcast,faust,quix,bytewax,kafka_streams,flink,flink-chained",
    show_default=True,
    help="Which to compare, by comma.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--events", type=click.IntRange(300_000), default=5_000_000, show_default=True, help="Of the input.")
@click.option("--offered", type=click.IntRange(100), metavar="RATE", help="Events/s, in place of a backlog.")
@click.option("--kill", is_flag=True, help="Then kill -9 each once, start it again, and count what that did.")
@click.option(
    "--quick", is_flag=True, help="Bare and linkcast only, for seconds: values are checked, no figure is meant."
)
@click.option(
    "--markdown",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Page whose block between 'peers begin' and 'peers end' becomes the table, such as docs/peers.md.",
)
@json_option
def peers(
    engines: str,
    rounds: int,
    events: int,
    offered: int | None,
    kill: bool,
    quick: bool,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Do the same window job in linkcast and in its peers, on a broker of its own, each engine on one core (Linux).

    Installs each peer into the user's cache folder first; one that can't be is left out, and said. Prints CPU per
    event as a ratio to linkcast's, median and range; with --offered at that rate (default: linkcast alone). Exits
    with 1 if an engine fails or any of its values is wrong.

    \b
        linkcast bench peers --rounds 5 --markdown docs/peers.md --json
        linkcast bench peers --offered 5000 --engines linkcast,kafka_streams
    """
    import json
    import logging
    import signal
    import sys

    with _checkout():
        from bench.peers import Plan, bench, table, write_into
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    given = click.get_current_context().get_parameter_source("engines") is not ParameterSource.DEFAULT
    names = engines.split(",") if given or offered is None else ["linkcast"]
    figures = bench(names, Plan(rounds=rounds, events=events, offered=offered, kill=kill), quick=quick)
    click.echo(table(figures), err=True)
    if markdown:
        write_into(markdown, table(figures))
    if as_json:
        click.echo(json.dumps(figures))
    failed = [name for name, engine in figures["engines"].items() if engine.get("failed")]
    if failed:
        raise WrongAnswer(f"{', '.join(failed)} failed: the table above says why")


@contextmanager
def _checkout() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "bench":
            raise
        raise NoCheckout("the benchmarks are in no wheel: run this in a checkout of linkcast ('make setup')") from error


def _report(figures: Mapping[str, object], as_json: bool) -> None:
    import json

    for name, figure in figures.items():
        rows = figure.items() if isinstance(figure, dict) else [("", figure)]
        for part, value in rows:
            shown = f"{value:,}" if isinstance(value, int | float) else value
            click.echo(f"{f'{name} {part}':<28}{shown:>20}", err=True)
    if as_json:
        click.echo(json.dumps(figures))
    if figures.get("differing"):
        raise WrongAnswer(f"{figures['differing']} values differ in a bit: the figures above are of a wrong answer")
    if figures.get("void"):
        raise NotHeld(f"the schedule was not held, the figures above don't count: {figures['void']}")
