"""`linkcast sagemaker`: training, serving and promotion in an AWS account."""

import logging
import os
from pathlib import Path

import click


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
