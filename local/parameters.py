"""Prints a stage's parameter overrides in samconfig.toml as arguments of `sam deploy`, for `make deploy`."""

import shlex
import sys
import tomllib
from pathlib import Path


def parameters(text: str, stage: str) -> list[str]:
    """Return the stage's parameters as `Name=value`. The list is empty if the stage has none.

    `sam deploy --guided` writes one string, and people write a list. Values may be quoted in both.
    """
    found = (
        tomllib.loads(text)
        .get(stage, {})
        .get("deploy", {})
        .get("parameters", {})
        .get("parameter_overrides", [])
    )
    return shlex.split(found if isinstance(found, str) else " ".join(found))


if __name__ == "__main__":
    print(*parameters(Path("samconfig.toml").read_text("utf-8"), sys.argv[1]))
