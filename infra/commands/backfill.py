"""`linkcast backfill`: features and rule labels of recorded events."""

from pathlib import Path

import click

from infra.options import rules_option, time_zone_option


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Parquet file to write.")
@time_zone_option
@rules_option
def command(files: tuple[str, ...], out: Path, time_zone: str, rules: Path | None) -> None:
    """Compute the 24 features and the rule label of each event in FILE…, without a broker.

    Reads JSON Lines (plain, .gz, .zst, or - for stdin), CSV or Parquet, in the order given, and writes one row per
    accepted event that is its stream's newest: stream_id, ts, the features by name, label, rule_risk, confidence,
    needs_review. The same compiled code as the worker's, bit for bit. Prints what became of the events as JSON; lines
    that are no events go to stderr. --out is written whole or not at all: exits with 1 if a file can't be read to its
    end, if --out can't be written, or if not one line is an event.

    \b
        linkcast backfill monday.jsonl.gz tuesday.jsonl.gz --out features.parquet --time-zone Europe/Berlin
    """
    import json

    from infra.progress import compiling, seldom
    from offline.backfill import backfill_files
    from streams.features.labels import DEFAULT_RULES, load_rules

    with compiling():
        from streams.features.stream_table import compile_kernel

        compile_kernel()
    summary = backfill_files(
        files,
        out,
        time_zone=time_zone,
        rules=load_rules(rules or DEFAULT_RULES),
        progress=seldom(lambda events: click.echo(f"{events:,} events", err=True)),
    )
    for line in summary.bad:
        click.echo(str(line), err=True)
    if (more := summary.became["rejected"] - len(summary.bad)) > 0:
        click.echo(f"and {more} more that are no events", err=True)
    click.echo(json.dumps(summary.became))
