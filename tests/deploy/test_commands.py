"""Every command that the documentation and the workflow name is one of the Makefile's."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.templates import ROOT

WORKFLOW = ".github/workflows/parley.yml"
NAMED_IN = [
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    WORKFLOW,
]


@pytest.fixture(scope="module")
def targets() -> set[str]:
    # The database of all rules, without running one: `:` is a target that nobody has.
    printed = subprocess.run(
        ["make", "--print-data-base", "--no-builtin-rules", "--question", ":"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", printed, re.MULTILINE))


@pytest.mark.parametrize("name", NAMED_IN)
def test_the_commands_exist(name: str, targets: set[str]) -> None:
    text = (ROOT / name).read_text("utf-8")
    lines = re.findall(
        r"(?:`|^(?:\w+=\S+ )?|run: |&& )make ([a-z][a-z-]*(?: [a-z][a-z-]*(?![\w=]))*)", text, re.MULTILINE
    )
    assert {word for line in lines for word in line.split()} <= targets


def test_the_documentation_names_what_a_deployment_takes() -> None:
    text = (ROOT / "docs/deploy.md").read_text("utf-8")
    for command in ("build", "deploy", "keys", "seed", "site", "smoke", "logs", "sam-local"):
        assert f"make {command}" in text


def test_the_workflow_checks_builds_and_deploys_without_a_stored_key() -> None:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / WORKFLOW).read_text("utf-8"))["jobs"]
    ran = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert {"make check", "make test"} <= set(ran["test"])
    assert ran["build"][:2] == ["make deploy-check", "make runtime-check"]
    for stage in ("dev", "prod"):
        assert ran[stage][1].startswith("make deploy")
        assert jobs[stage]["env"]["STAGE"] == jobs[stage]["environment"] == stage
        assert jobs[stage]["permissions"] == {"contents": "read", "id-token": "write"}
        assert "github.ref == 'refs/heads/main'" in jobs[stage]["if"]
    assert jobs["dev"]["needs"] == ["test", "build"]
    assert jobs["prod"]["needs"] == ["dev"]
    assert "secrets." not in (ROOT / WORKFLOW).read_text("utf-8")
    # A tag can be moved to other code; a commit cannot.
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in used)


def test_what_is_deployed_is_built_where_nobody_can_sign_in() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / WORKFLOW).read_text("utf-8"))
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    for name in set(jobs) - {"dev", "prod"}:
        assert not {"permissions", "environment"} & jobs[name].keys()
    for stage in ("dev", "prod"):
        steps = jobs[stage]["steps"]
        # Until the tools are there nobody has signed in, and from then on nothing is built or installed.
        names = [step.get("uses", "").partition("@")[0] or step["run"] for step in steps]
        at = names.index("aws-actions/configure-aws-credentials")
        assert steps[at]["with"]["role-to-assume"] == "${{ vars.AWS_ROLE_ARN }}"
        assert names[at - 2] == "actions/download-artifact"
        assert "npm" not in str(names)
        assert names[at + 1 :] == [
            "make deploy -o .aws-sam/.built ARGS=--no-confirm-changeset",
            "make seed",
            "make site -o web/dist/index.html",
        ]


def test_each_environment_has_a_role_that_only_main_may_assume() -> None:
    text = (ROOT / "docs/deploy.md").read_text("utf-8").partition("## From GitHub")[2].partition("\n## ")[0]
    policy = json.loads(text.partition("```json\n")[2].partition("```")[0])
    [statement] = policy["Statement"]
    [(test, claims)] = statement["Condition"].items()
    assert test == "StringEquals"
    issuer = "token.actions.githubusercontent.com"
    assert claims == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "repo:<owner>/<repository>:environment:<environment>:ref:refs/heads/main",
    }
    assert "*" not in json.dumps(policy)
