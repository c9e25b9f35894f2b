"""`linkcast doctor`: what is missing here, and the fix."""

import asyncio
import sys
from typing import Any

import click

from infra.options import cluster_options, json_option


@click.command()
@cluster_options
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Say what is missing on this machine, and the fix.

    Looks at Python, packages, Java, Kafka's jars, folders, disk, the cluster and its topics; changes nothing. Exits
    with 1 if something needed is missing.

    \b
        linkcast doctor --json | jq '.[] | select(.ok | not)'
    """
    import msgspec

    from infra.doctor import examine

    checks = asyncio.run(examine(options))
    if as_json:
        print(msgspec.json.encode(checks).decode())
    else:
        for check in checks:
            word = "ok" if check.ok else "PROBLEM" if check.needed else "note"
            print(f"{word:8}{check.name}: {check.found}" + ("" if check.ok else f". Fix: {check.fix}"))
    sys.exit(any(check.needed and not check.ok for check in checks))
