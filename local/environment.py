"""The environment of a laptop's server: the process's variables, then `.env`, then defaults."""

import hashlib
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from local.files import keep_secret

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
# Trusted mode, since `local.dev` listens at 127.0.0.1, which only the laptop's owner reaches. The demo model,
# since a first run has no keys of providers. Users share replies, since all of them are the laptop's owner.
_DEFAULTS = {
    "AUTH_MODE": "trusted", "ALLOW_TRUSTED": "true", "DEMO_MODEL": "true", "SHARE_CONTEXT_FREE": "true",
    "LOG_LEVEL": "WARNING",
}  # fmt: skip


class EnvFileError(ValueError):
    """`.env` is no text, or a line of it is not an assignment. The message gives the line's number."""


def read_env(text: str, source: str = ".env") -> dict[str, str]:
    """Parse lines of `NAME=value`, with an optional `export` before the name.

    A line that begins with `#` is a comment. Quotes around a value are removed. Variables in values are not
    expanded. Raises `EnvFileError`.
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
    """Add the variables of `.env` in `folder`, and the defaults, to the environment. Raises `EnvFileError`.

    A variable that is set already keeps its value, even an empty one: an empty VALKEY_URL means no Valkey.
    """
    file = folder / ".env"
    try:
        given = read_env(file.read_text("utf-8")) if file.is_file() else {}
    except UnicodeDecodeError:
        raise EnvFileError(".env must be text in UTF-8.") from None
    for name, value in (_DEFAULTS | given).items():
        env.setdefault(name, value)


def set_key_secret(data: Path, *, shared: bool, env: MutableMapping[str, str] = os.environ) -> None:
    """Set KEY_SECRET, unless it is set, to the data folder's secret or to a hash of a shared database's URL.

    Servers that share a database must compute the same generation keys. They have the database's URL in
    common.
    """
    if env.get("KEY_SECRET"):
        return
    if shared:
        env["KEY_SECRET"] = hashlib.sha256(b"parley " + env["DATABASE_URL"].encode()).hexdigest()
    else:
        env["KEY_SECRET"] = keep_secret(data / "key-secret")
