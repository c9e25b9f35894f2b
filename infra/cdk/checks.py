"""Synthesise two deployments with every check, offline: `make synth`.

One with everything on and one as it is first deployed, without endpoint and language model. cdk-nag runs inside the
synthesis, cfn-lint on the templates, and the policies are compared with `iam.json`. Exits with 1 if anything is found.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START = time.monotonic()

from infra.cdk.app import build  # noqa: E402  # importing aws_cdk is a part of what is timed
from infra.cdk.findings import ACKNOWLEDGED  # noqa: E402
from infra.cdk.iam import SNAPSHOT, as_text, policies_of  # noqa: E402
from infra.cdk.package import copy_ours  # noqa: E402

FULL = {
    "bedrock_model": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "model_data": "s3://models/bundles/20261125-5a63e818/model.tar.gz",
    "trusted_pem": "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    "-----END PUBLIC KEY-----\n",  # of RFC 8410
    "alert_email": "fabric@example.com",
}
IGNORED_LINT = ["W3005"]
"""A dependency said twice: CDK writes it beside a reference that means the same."""


def check(out: Path) -> dict[str, Any]:
    """Synthesise both deployments into folders of `out`; return what was found, and the seconds it took."""
    seconds = {"import": time.monotonic() - START}
    package = out / "lambda"
    copy_ours(package)  # without the libraries: their bytes are no part of a template
    reports = {}
    for name, context in (("full", FULL), ("first", {})):
        with _timed(seconds, f"synth_{name}"):
            reports[name] = _synthesise(context, package, out / name)
    with _timed(seconds, "cfn_lint"):
        lint = _lint(sorted(out.glob("*/*.template.json")))
    policies = as_text(policies_of(_templates(out / "full")))
    seconds["all"] = time.monotonic() - START
    seconds["cpu"] = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    return {
        "resources": sum(len(t["Resources"]) for t in _templates(out / "full").values()),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "unexplained": [finding for report in reports.values() for finding in report["unexplained"]],
        "acknowledged": len(reports["full"]["acknowledged"]),
        "not_needed": _not_needed(reports["full"]["acknowledged"]),
        "cfn_lint": lint,
        "policies": policies,
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _synthesise(context: dict[str, str], package: Path, out: Path) -> dict[str, list[str]]:
    try:
        build(context, package=package, out=out).synth()
    except RuntimeError as error:
        if "validation-report" not in str(error):
            raise  # no finding but a fault of ours
    report = json.loads((out / "validation-report.json").read_bytes())["pluginReports"]
    return {"unexplained": _findings(report, "violations"), "acknowledged": _findings(report, "suppressedViolations")}


def _findings(report: list[dict[str, Any]], kind: str) -> list[str]:
    return [
        f"{construct['constructPath'].removesuffix('/Resource')}: {violation['ruleName']}"
        for plugin in report
        for violation in plugin.get(kind, [])
        for construct in violation["violatingConstructs"]
    ]


def _not_needed(acknowledged: list[str]) -> list[str]:
    """Return acknowledgements that met no finding: what they excuse is gone, or was never there."""
    met: dict[str, int] = {}
    for finding in acknowledged:
        path = finding.partition(":")[0]
        met[path] = met.get(path, 0) + 1
    return [path for path, rules in ACKNOWLEDGED.items() if met.get(path, 0) < len(rules)]


def _lint(templates: list[Path]) -> list[str]:
    from cfnlint import ManualArgs
    from cfnlint.api import lint

    found = []
    for path in templates:
        config = ManualArgs(regions=["us-east-1"], ignore_checks=IGNORED_LINT)
        found += [
            f"{path.name}: {match.rule.id} {match.message}" for match in lint(path.read_text("utf-8"), config=config)
        ]
    return found


def _templates(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name.removesuffix(".template.json"): json.loads(path.read_bytes())
        for path in sorted(folder.glob("*.template.json"))
    }


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.cdk.checks", description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the templates and report.json here")
    parser.add_argument("--write-iam", action="store_true", help="take the policies as they are into iam.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = check(arguments.out or Path(folder))
    policies = found.pop("policies")
    if arguments.write_iam:
        SNAPSHOT.write_text(policies, "utf-8")
    found["policies_changed"] = policies != SNAPSHOT.read_text("utf-8")
    if arguments.out:
        (arguments.out / "report.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps(found, indent=1))
    wrong = ("unexplained", "not_needed", "cfn_lint", "policies_changed")
    return int(any(found[name] for name in wrong))


if __name__ == "__main__":
    sys.exit(_main())
