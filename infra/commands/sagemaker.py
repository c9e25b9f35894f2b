"""`linkcast sagemaker`: training, serving and promotion in an AWS account."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import click

from infra.options import json_option, kafka_options
from streams.kafka import KafkaSettings

_image_option = click.option("--image", required=True, help="Image in ECR with linkcast in it.")
_role_option = click.option("--role", required=True, metavar="ARN", help="Role that SageMaker takes on.")
_kms_option = click.option("--kms-key", metavar="ARN", help="Key for what is written; default: the bucket's own.")


@click.group()
def command() -> None:
    """Train, serve and promote models in an AWS account, by SageMaker."""


@command.command()
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/opt/ml/model"),
    show_default=True,
    help="Folder of the bundle, or the one above it.",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Where to listen.")  # noqa: S104
@click.option(
    "--port",
    envvar="SAGEMAKER_BIND_TO_PORT",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="0 takes a free one.",
)
def serve(model: Path, host: str, port: int) -> None:
    """Answer GET /ping and POST /invocations over one bundle, as the container of a SageMaker endpoint does.

    Trusts the public keys in LINKCAST_TRUSTED_PEM. A bundle that is refused is told by /ping, with 503. Stops cleanly
    on SIGTERM and Ctrl-C once what had begun is answered; exits with 1 if 20 s were not enough for that.

    \b
        export LINKCAST_TRUSTED_PEM="$(cat keys/*.pub)"
        linkcast sagemaker serve --model models/20261125-5a63e818 --host 127.0.0.1
        curl -H 'Content-Type: application/json' -d '{"features": {"utilization": 97}}' localhost:8080/invocations
    """
    from infra.sagemaker.endpoint import serve as serve_endpoint

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    is_answered = serve_endpoint(
        model, os.environ, host, port, lambda bound: click.echo(f"http://{host}:{bound}", err=True)
    )
    if not is_answered:
        raise click.ClickException("stopped with requests unanswered")


@command.command()
@click.option("--job", required=True, help="Name of the training job; one of that name is not started again.")
@_image_option
@_role_option
@click.option("--signing-key", required=True, metavar="S3-URL", help="s3://…/signing.key, which the job signs with.")
@click.option("--output", required=True, metavar="S3-URL", help="Where the artefact goes.")
@_kms_option
@click.option("--instance-type", default="ml.m5.xlarge", show_default=True, help="What the job runs on.")
@click.option(
    "--hours-max", default=3.0, show_default=True, type=click.FloatRange(0.1, 120), help="Then it is stopped."
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="For its end.")
@json_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def submit(wait: bool, as_json: bool, hours_max: float, **of_job: Any) -> None:
    """Run 'linkcast train ARGUMENTS…' as a training job.

    The bundle is signed in the job and lies in model.tar.gz below --output. Writes nothing here. Prints where the
    artefact is; exits with 1 if the job fails.

    \b
        linkcast sagemaker submit --job linkcast-2026-12 --image $IMAGE --role $ROLE \\
            --signing-key s3://keys/signing.key --output s3://models/jobs -- --ports 200 --hours 48
    """
    import json

    from infra.aws import client, in_words
    from infra.sagemaker.training import TrainingSettings, await_job
    from infra.sagemaker.training import submit as submit_job

    settings = TrainingSettings(seconds_max=int(hours_max * 3_600), **of_job)
    artefact = None
    with in_words():
        sagemaker = client("sagemaker")
        is_started = submit_job(sagemaker, settings)
        click.echo(f"job {settings.job}: {'started' if is_started else 'there already'}", err=True)
        if wait:
            artefact = await_job(sagemaker, settings.job, say=_say, pause=time.sleep)
    report = {"job": settings.job, "started": is_started, "artefact": artefact}
    click.echo(json.dumps(report) if as_json else artefact or settings.job)


@command.command()
@click.option("--endpoint", required=True, help="Its name; made if there is none.")
@_image_option
@_role_option
@click.option("--bundles", required=True, metavar="S3-URL", help="Where archives of bundles go.")
@click.option("--capture", metavar="S3-URL", help="Where a sample of requests and answers goes.")
@click.option("--capture-percent", default=10, show_default=True, type=click.IntRange(1, 100), help="How large it is.")
@_kms_option
@click.option("--instance-type", default="ml.m5.large", show_default=True, help="What the endpoint runs on.")
@click.option("--instances-min", default=2, show_default=True, type=click.IntRange(2), help="A canary needs two.")
@click.option("--instances-max", default=4, show_default=True, type=click.IntRange(2), help="As traffic grows.")
@click.option("--version", help="Of the bundle on topic models; default: the newest.")
@click.option(
    "--trusted-keys",
    envvar="LINKCAST_TRUSTED_KEYS",
    type=click.Path(path_type=Path),
    help="Public key, or a folder of them, that the bundle must be signed with; default: the home's own.",
)
@kafka_options
@json_option
def promote(
    kafka: KafkaSettings, prefix: str, version: str | None, trusted_keys: Path | None, as_json: bool, **of_endpoint: Any
) -> None:
    """Put a bundle of topic models behind an endpoint, one instance first.

    Verifies the bundle, puts its archive to S3, makes model, config, alarms and scaling, and updates the endpoint with
    a canary. Waits, and asks the golden rows meanwhile: their error is a metric that rolls back, as latency and 5xx do.
    May be run again at any time and goes on. Exits with 1 if the endpoint was rolled back, and says why.

    \b
        linkcast sagemaker promote --endpoint linkcast --image $IMAGE --role $ROLE --bundles s3://models/bundles
    """
    import json

    from infra.aws import client, in_words
    from infra.sagemaker.deployment import EndpointSettings
    from infra.sagemaker.promotion import Clients, Promotion
    from infra.sagemaker.published import read
    from online.models.keys import load_trusted_keys

    settings = EndpointSettings(**of_endpoint)
    folder = read(kafka, prefix=prefix, version=version)
    keys = load_trusted_keys(trusted_keys or click.get_current_context().params["home"] / "keys")
    with in_words():
        services = ("sagemaker", "sagemaker-runtime", "s3", "cloudwatch", "application-autoscaling")
        clients = Clients(*map(client, services))
        config = Promotion(clients, settings, say=_say, pause=time.sleep).run(folder, keys)
    report = {"model": folder.name, "endpoint": settings.endpoint, "config": config}
    click.echo(json.dumps(report) if as_json else config)


def _say(what: str) -> None:
    click.echo(what, err=True)
