"""The environment of a laptop's server: the process's own, then `.env`, then a laptop's defaults."""

import hashlib
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from local.files import keep_secret

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
# Whoever reaches 127.0.0.1 on a laptop is its owner, and the first run has no keys.
_DEFAULTS = {"AUTH_MODE": "trusted", "DEMO_MODEL": "true", "LOG_LEVEL": "WARNING"}


class EnvFileError(ValueError):
    """A line of `.env` makes no sense; the message names it."""


def read_env(text: str, source: str = ".env") -> dict[str, str]:
    """Read `NAME=value` lines; `#` opens a comment line, quotes around a value are dropped.

    Nothing is expanded. Raises `EnvFileError`.
    """
    values: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise EnvFileError(f"line {number} of {source} is not NAME=value.")
        name, value = found.groups()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name] = value
    return values


def prepare(folder: Path, env: MutableMapping[str, str] = os.environ) -> None:
    """Complete the environment from `.env` in `folder` and the defaults; raises `EnvFileError`.

    What is set already stays, also where it is set to nothing: an empty VALKEY_URL means no Valkey.
    """
    file = folder / ".env"
    given = read_env(file.read_text("utf-8")) if file.is_file() else {}
    for name, value in (_DEFAULTS | given).items():
        env.setdefault(name, value)


def set_key_secret(data: Path, *, shared: bool, env: MutableMapping[str, str] = os.environ) -> None:
    """Set KEY_SECRET if it is not set: kept in the data folder, or derived where a database is shared.

    Servers that share a database must agree on the keys of generations, and what they share is the
    database's URL.
    """
    if env.get("KEY_SECRET"):
        return
    if shared:
        env["KEY_SECRET"] = hashlib.sha256(b"parley " + env["DATABASE_URL"].encode()).hexdigest()
    else:
        env["KEY_SECRET"] = keep_secret(data / "key-secret")
