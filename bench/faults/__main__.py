"""`python -m bench.faults`: the whole suite, one table on stdout, exit status 1 if anything is lost or wrong."""

import logging
import random
import sys

import click

from bench.faults import KINDS, bench, failed, table


@click.command()
@click.option("--seed", type=int, help="Of every choice; default: a fresh one, which is printed.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Only this kind; repeatable.")
@click.option("--tries", type=click.IntRange(1), help="Faults of each kind; default: its own number, 232 in all.")
@click.option("--at-once", default=4, show_default=True, type=click.IntRange(1), help="Kinds that run side by side.")
def main(seed: int | None, kinds: tuple[str, ...], tries: int | None, at_once: int) -> None:
    """Break real workers on a real broker, and compare all that they left with the pure processor.

    Starts two brokers in a temporary folder. Exits with 1 if an output is lost, any output, state or offset wrong, or
    one repeated where it should come exactly once.

    \b
        python -m bench.faults --kind "SIGKILL at random" --tries 5 --seed 7
    """  # noqa: D301  # click wants a real backspace
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is killed is no news
    seed = random.randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    chosen = {name: tries or plan.tries for name, plan in KINDS.items() if not kinds or name in kinds}
    figures = bench(seed=seed, tries=chosen, at_once=at_once)
    click.echo(table(figures))
    sys.exit(int(failed(figures)))


main()
