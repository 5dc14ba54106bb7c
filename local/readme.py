"""Writes the tables of settings in README.md and docs/configuration.md from `parley.settings`."""

import re
import sys
from collections.abc import Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from parley.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/configuration.md")
# The settings that a newcomer needs, and the only ones in the README.
_FIRST = (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "XAI_API_KEY", "OPENAI_BASE_URL", "DATABASE_URL", "VALKEY_URL",
)  # fmt: skip
# How the names of each group's settings begin. Every setting belongs to exactly one group.
_GROUPS = {
    "database": ("DATABASE_",),
    "valkey": ("VALKEY_",),
    "identity": ("AUTH_", "ALLOW", "JWT_"),
    "providers": ("OPENAI_", "ANTHROPIC_", "XAI_", "DEMO_", "PROVIDER_"),
    "replies": (
        "SHARE_", "CACHE_", "REPLY_", "SESSION_", "PROMPT_", "BODY_", "HEARTBEAT_", "FLUSH_", "LEASE_",
        "PULSE_", "DEADLINE_",
    ),
    "operations": ("KEY_", "KEYS_", "RETENTION_", "PURGE_", "LOG_"),
}  # fmt: skip
_TABLE = re.compile(r"<!-- settings: (\w+) -->\n.*?<!-- /settings -->\n", re.DOTALL)


def updated(text: str) -> str:
    """Return a page with the table between each pair of markers made anew.

    Raises `ValueError` for a marker of an unknown group, and for a setting that is not in exactly one group.
    """
    return _TABLE.sub(
        lambda found: f"<!-- settings: {found[1]} -->\n{_table(found[1])}<!-- /settings -->\n", text
    )


def groups_in(text: str) -> list[str]:
    """Return the groups whose tables a page has, in its order."""
    return [found[1] for found in _TABLE.finditer(text)]


def groups() -> list[str]:
    """Return the groups of docs/configuration.md."""
    return list(_GROUPS)


def _table(group: str) -> str:
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for item in _settings_of(group):
        name = f"`{item.metadata['name']}`" + ("\\*" if item.metadata["secret"] else "")
        rows.append(f"| {name} | {_shown(item.default)} | {item.metadata['about']} |")
    return "\n".join(rows) + "\n"


def _settings_of(group: str) -> Iterable["Field[Any]"]:
    """Return a group's settings: the newcomer's in the order above, any other in the order of the code."""
    if group == "first":
        by_name = {item.metadata["name"]: item for item in fields(Settings)}
        return [by_name[name] for name in _FIRST]
    if group not in _GROUPS:
        raise ValueError(f"{group} is no group of local/readme.py")
    return [item for item in fields(Settings) if _group_of(item.metadata["name"]) == group]


def _group_of(name: str) -> str:
    found = [group for group, prefixes in _GROUPS.items() if name.startswith(prefixes)]
    if len(found) != 1:
        raise ValueError(f"{name} must belong to one group of local/readme.py, not {found}")
    return found[0]


def _shown(default: object) -> str:
    if default in ("", ()):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        if updated(old := path.read_text("utf-8")) != old:
            path.write_text(updated(old), "utf-8")
            sys.stdout.write(f"{page} has changed.\n")
