"""Every policy of the templates in one text that a person can read and a diff can show.

`iam.json` beside this file holds it for the deployment with everything on; a change of it needs a second look.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("iam.json")
DOCUMENTS = (
    "AssumeRolePolicyDocument",
    "FileSystemPolicy",
    "KeyPolicy",
    "PolicyDocument",
)
"""Properties of any resource that hold a policy. A role's own are under `Policies`."""

Policies = dict[str, dict[str, Any]]


def policies_of(templates: Mapping[str, Mapping[str, Any]]) -> Policies:
    """Return, by stack and resource, each policy document of the templates (stack's name to template).

    >>> role = {"Type": "AWS::IAM::Role", "Properties": {"ManagedPolicyArns": [{"Ref": "P"}]}}
    >>> policies_of({"s": {"Resources": {"R": role}}})
    {'s/R': {'ManagedPolicyArns': ['${P}']}}
    """
    return {
        f"{stack}/{name}": found
        for stack, template in sorted(templates.items())
        for name, resource in sorted(template["Resources"].items())
        if (found := dict(_of_resource(resource.get("Properties", {}))))
    }


def as_text(policies: Policies) -> str:
    """Return policies as the snapshot keeps them."""
    return json.dumps(policies, indent=1, sort_keys=True) + "\n"


def _of_resource(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in DOCUMENTS:
        if name in properties:
            yield name, _statements(properties[name])
    for policy in properties.get("Policies", []):
        yield f"Policies/{policy['PolicyName']}", _statements(policy["PolicyDocument"])
    if "ManagedPolicyArns" in properties:
        yield "ManagedPolicyArns", [_plain(arn) for arn in properties["ManagedPolicyArns"]]


def _statements(document: Mapping[str, Any]) -> list[Any]:
    return sorted(
        (_plain(statement) for statement in document["Statement"]), key=lambda s: json.dumps(s, sort_keys=True)
    )


def _plain(value: Any) -> Any:
    """Return a value with CloudFormation's functions as text, so that an ARN reads as one."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((function, argument),) = value.items()
        if function in _FUNCTIONS:
            return _FUNCTIONS[function](argument)
    return {key: _plain(item) for key, item in value.items()}


def _join(joined: Any) -> str:
    separator, parts = joined
    text = separator.join(str(_plain(part)) for part in parts)
    return re.sub(r"\$\{0 of ([^}]+)\}(:[a-z-]+)/\$\{1 of [^}]+\}", r"${\1}\2", text)  # a topic of a cluster


def _select(argument: Any) -> str:
    index, of = argument
    return f"${{{index} of {_plain(of['Fn::Split'][1])[2:-1]}}}"


_FUNCTIONS: dict[str, Any] = {
    "Ref": lambda name: f"${{{name}}}",
    "Fn::GetAtt": lambda path: f"${{{'.'.join(path)}}}",
    "Fn::ImportValue": lambda name: f"${{{name}}}",
    "Fn::Join": _join,
    "Fn::Select": _select,
    "Fn::Sub": lambda text: text if isinstance(text, str) else text[0],
}
