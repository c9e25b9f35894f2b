"""`linkcast train`: a first model from a simulated history."""

from pathlib import Path
from typing import Any

import click

from infra.options import NoBroker, cluster_options, even, json_option, kafka_settings, time_zone_option


@click.command()
@cluster_options
@click.option(
    "--ports", default=100, show_default=True, type=click.IntRange(6), callback=even, help="Of each simulated fabric."
)
@click.option("--hours", default=24.0, show_default=True, type=click.FloatRange(6), help="Of its life.")
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Of fabrics and training: the same seed, the same model.",
)
@click.option(
    "--rates",
    type=click.Choice(["true", "train"]),
    default="true",
    show_default=True,
    help="Fault rates that risk is calibrated to: the real ones, or the raised ones of the simulated history.",
)
@time_zone_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Bundles' folder; default: HOME/models.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Signing key, made if missing; default: HOME/keys/signing.key.",
)
@click.option("--publish/--no-publish", default=None, help="Onto topic models; default: if there is a cluster.")
@json_option
def command(
    ports: int,
    hours: float,
    seed: int,
    rates: str,
    time_zone: str,
    out: Path | None,
    key: Path | None,
    publish: bool | None,
    as_json: bool,
    **cluster: Any,
) -> None:
    """Train the two models on a simulated history and write them as one signed bundle.

    Simulates thirteen fabrics with raised fault rates (profile train): nine teach, two calibrate, two examine. Computes
    features with the worker's own kernel, fits the classifier and the risk model, and publishes the bundle on topic
    models, so that running workers take it up. The key's public half is what workers trust (--trusted-keys).

    \b
        linkcast train --ports 100 --hours 24 --json
    """
    import asyncio
    import json
    import tempfile
    import time

    home, prefix = cluster["home"], cluster.pop("prefix")
    try:
        kafka = None if publish is False else kafka_settings(cluster)
    except NoBroker:
        if publish:
            raise
        kafka = None

    from infra.progress import step
    from offline.history.simulated import PARTS, base_rate, simulated_histories
    from offline.simulator.fabric import Setting
    from offline.training.train import train_bundle
    from online.models.keys import load_or_create_key
    from online.models.publish import publish as publish_bundle
    from streams.kafka import await_broker

    # What may be wrong with places and cluster is said before the minutes of work.
    signing_key = load_or_create_key(key or home / "keys" / "signing.key")
    models = out or home / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=models):
            pass
    except OSError as error:
        error.filename = str(models)  # not the one of the trial
        raise
    if kafka:
        asyncio.run(await_broker(kafka))
    with step(f"simulating {len(PARTS)} fabrics of {ports} ports for {hours:g} h, and their features") as progress:
        setting = Setting(ports=ports, hours=hours, seed=seed, profile="train")
        table = simulated_histories(setting, time_zone=time_zone, progress=progress)
    with step(f"fitting two models to {len(table.ts):,} rows"):
        now_ms = int(time.time() * 1000)
        bundle = train_bundle(
            table,
            models,
            signing_key,
            created_at=now_ms,
            base_rate=base_rate("true", seed=seed) if rates == "true" else None,
            seed=seed,
        )
    if kafka:
        with step(f"publishing {bundle.name} on {prefix}models"):
            asyncio.run(publish_bundle(kafka, prefix=prefix, bundle=bundle, published_at=now_ms))
    else:
        click.echo("not published: no cluster was named and none is up here", err=True)
    evaluation = json.loads((bundle / "manifest.json").read_bytes())["evaluation"]
    report = {"model": bundle.name, "bundle": str(bundle), "published": kafka is not None, "evaluation": evaluation}
    click.echo(json.dumps(report) if as_json else str(bundle))
