"""The stacks, composed. `python -m infra.cdk.app` is what the CDK's command line runs; `checks` needs no such line.

CDK's command line reads feature flags from cdk.json, and offline nobody does: they are given here, for both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import cdk_nag

from infra.cdk.adapter import adapter
from infra.cdk.data import data, encryption_key
from infra.cdk.deployment import Deployment, deployment_of
from infra.cdk.findings import acknowledge
from infra.cdk.model import model
from infra.cdk.network import network
from infra.cdk.package import PACKAGE, check_package
from infra.cdk.watch import watch
from infra.cdk.worker import worker

FLAGS = {
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,  # else log delivery needs ACLs, which we forbid
    "@aws-cdk/core:checkSecretUsage": True,
    "@aws-cdk/core:enablePartitionLiterals": True,
    "@aws-cdk/customresources:installLatestAwsSdkDefault": False,
    "@aws-cdk/aws-ec2:restrictDefaultSecurityGroup": False,
    "@aws-cdk/aws-ecs:disableExplicitDeploymentControllerForCircuitBreaker": True,
    "@aws-cdk/aws-efs:denyAnonymousAccess": True,
    "@aws-cdk/aws-lambda:recognizeLayerVersion": True,
}
STACKS = ("data", "worker", "adapter", "model", "watch")


def build(context: Mapping[str, Any] | None = None, *, package: Path = PACKAGE, out: Path | None = None) -> cdk.App:
    """Return the app of a deployment: `context` overrides the command line's, `package` is the Lambda's folder."""
    app = cdk.App(
        analytics_reporting=False,
        context={**FLAGS, **(context or {})},
        outdir=str(out) if out else None,
    )
    keys = Deployment.__dataclass_fields__
    deployment = deployment_of({key: app.node.try_get_context(key) for key in keys})
    _stacks(app, deployment, package)
    cdk.Tags.of(app).add("project", "linkcast")
    acknowledge(app, deployment)
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(), cdk_nag.ServerlessChecks())
    return app


def _stacks(app: cdk.App, deployment: Deployment, package: Path) -> None:
    of = {name: _stack(app, deployment, name) for name in STACKS}
    key = encryption_key(of["data"])
    net = network(of["data"], deployment, key)
    kept = data(of["data"], deployment, net, key)
    workers = worker(of["worker"], deployment, net, kept)
    lambda_ = adapter(of["adapter"], deployment, net, kept, package)
    model(of["model"], deployment, kept, workers.image, lambda_.people)
    watch(of["watch"], deployment, workers, lambda_)


def _stack(app: cdk.App, deployment: Deployment, name: str) -> cdk.Stack:
    return cdk.Stack(
        app,
        f"linkcast-{name}",
        description=f"linkcast: {name}",
        env=cdk.Environment(region=deployment.region),
        termination_protection=name == "data",
        analytics_reporting=False,
    )


if __name__ == "__main__":
    check_package(PACKAGE)
    build().synth()
