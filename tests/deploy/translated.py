"""What SAM makes of the template. `make deploy-check` runs this; it needs the deployment's environment."""

import json
import os
import subprocess

import pytest

from tests.deploy import names
from tests.deploy.templates import ROOT, Node, of_type


@pytest.fixture(scope="module")
def translated() -> Node:
    printed = subprocess.run(
        [ROOT / ".venv-deploy/bin/python", ROOT / "tests/deploy/translate.py", ROOT / "template.yaml"],
        env=os.environ | {"AWS_DEFAULT_REGION": "us-east-1"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    template: Node = json.loads(printed)
    return template


def test_two_stacks_fit_into_one_account_and_region(translated: Node) -> None:
    assert names.fixed(translated) == []


def test_a_stack_of_one_name_fits_into_two_regions(translated: Node) -> None:
    assert names.without_region(translated) == []


def test_a_stack_with_the_longest_name_keeps_every_limit(translated: Node) -> None:
    assert names.too_long(translated) == []


def test_the_api_has_one_stage(translated: Node) -> None:
    stages = of_type(translated, "AWS::ApiGateway::Stage").values()
    assert [stage["Properties"]["StageName"] for stage in stages] == ["live"]
