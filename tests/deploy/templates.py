"""Reads template.yaml with CloudFormation's tags as the plain mappings they stand for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
Node = dict[str, Any]


def load(path: Path = ROOT / "template.yaml") -> Node:
    """Return the template."""
    template = json.loads(json.dumps(cfn_yaml.load(str(path))))
    assert isinstance(template, dict)
    return template


def walk(node: Any) -> Iterator[Any]:
    """Yield `node` and everything inside it."""
    yield node
    if isinstance(node, dict):
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def of_type(template: Node, kind: str) -> dict[str, Node]:
    """Return the resources of a type, by name."""
    return {name: item for name, item in template["Resources"].items() if item["Type"] == kind}
