"""`linkcast bench peers`: linkcast beside other stream processors."""

from pathlib import Path

import click
from click.core import ParameterSource

from infra.commands.bench.figures import WrongAnswer, benchmark, end_children_on_sigterm
from infra.options import json_option


@click.command()
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
def command(
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

    peers = benchmark("peers")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    end_children_on_sigterm()
    given = click.get_current_context().get_parameter_source("engines") is not ParameterSource.DEFAULT
    names = engines.split(",") if given or offered is None else ["linkcast"]
    figures = peers.bench(names, peers.Plan(rounds=rounds, events=events, offered=offered, kill=kill), quick=quick)
    click.echo(peers.table(figures), err=True)
    if markdown:
        peers.write_into(markdown, peers.table(figures))
    if as_json:
        click.echo(json.dumps(figures))
    failed = [name for name, engine in figures["engines"].items() if engine.get("failed")]
    if failed:
        raise WrongAnswer(f"{', '.join(failed)} failed: the table above says why")
