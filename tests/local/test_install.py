"""What `make` installs: by uv or by pip alone, and for serving only what serves."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.local.laptop import ROOT

LOCKS = ["layers/common/requirements.txt", "requirements-local.txt", "requirements-dev.txt"]


def locked(name: str) -> dict[str, Requirement]:
    """Return the requirements of a lock by the names of their packages."""
    found = re.findall(
        r"^([\w.-]+(?:\[[^\]]*\])?==[^\\\n]+?)\s*\\?$", (ROOT / name).read_text("utf-8"), re.MULTILINE
    )
    return {canonicalize_name(item.name): item for item in map(Requirement, found)}


@pytest.mark.parametrize("name", LOCKS)
def test_pip_alone_takes_the_lock(name: str) -> None:
    """With hashes pip takes no requirement that the lock does not pin with its extras and its hashes."""
    text = (ROOT / name).read_text("utf-8")
    items = locked(name)
    assert len(items) > 40
    assert text.count("--hash=sha256:") >= len(items)
    for held in items.values():
        if held.marker is not None and not held.marker.evaluate():
            continue
        for needed in map(Requirement, requires(held.name) or ()):
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in held.extras | {""}
            ):
                pinned = items[canonicalize_name(needed.name)]
                assert needed.extras <= pinned.extras, (held.name, needed)


def test_the_locks_agree() -> None:
    layer, local, dev = map(locked, LOCKS)
    for smaller, larger in ((layer, local), (local, dev)):
        assert {name: str(item.specifier) for name, item in smaller.items()}.items() <= {
            name: str(item.specifier) for name, item in larger.items()
        }.items()


def test_serving_installs_no_tools_of_tests_and_checks() -> None:
    serving = locked("requirements-local.txt").keys()
    assert not serving & {"moto", "mypy", "playwright", "pytest", "ruff", "hypothesis", "cfn-lint"}
    owners = packages_distributions()
    for path in [*ROOT.glob("local/*.py"), *ROOT.glob("local/fake_provider/*.py")]:
        # What needs more is asked for by a target that installs more.
        if path.name == "sam_local.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                for owner in owners.get(module, [])[:1]:
                    assert canonicalize_name(owner) in serving, (path.name, module)
