"""Every command that the documentation and the workflow name is one of the Makefile's."""

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
        r"(?:`|^(?:\w+=\S+ )?|run: |&& )make ([a-z-]+(?: [a-z-]+(?![\w=]))*)", text, re.MULTILINE
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
    assert ran["build"] == ["make deploy-check", "make runtime-check"]
    for stage in ("dev", "prod"):
        assert ran[stage][0].startswith("make deploy")
        assert jobs[stage]["env"]["STAGE"] == jobs[stage]["environment"] == stage
        assert jobs[stage]["permissions"] == {"contents": "read", "id-token": "write"}
    assert jobs["dev"]["needs"] == ["test", "build"]
    assert jobs["prod"]["needs"] == ["dev"]
    assert "secrets." not in (ROOT / WORKFLOW).read_text("utf-8")
    # A tag can be moved to other code; a commit cannot.
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in used)
