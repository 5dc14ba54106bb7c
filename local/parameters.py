"""Prints the parameters of a set in samconfig.toml, as `sam deploy` takes them: `make deploy` uses it."""

import shlex
import sys
import tomllib
from pathlib import Path


def parameters(text: str, stage: str) -> list[str]:
    """Return a set's parameters, each `Name=value`; none where the set has none.

    `sam deploy --guided` writes them as one text, people as a list; either may quote a value.
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
