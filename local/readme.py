"""Writes the README's table of settings from `parley.settings`."""

import sys
from dataclasses import fields
from pathlib import Path

from parley.settings import Settings

_README = Path(__file__).resolve().parent.parent / "README.md"
_BEGIN, _END = "<!-- settings -->\n", "<!-- /settings -->\n"


def table() -> str:
    """Return the table, one row a setting, in the order of the code."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for item in fields(Settings):
        name = f"`{item.metadata['name']}`" + ("\\*" if item.metadata["secret"] else "")
        rows.append(f"| {name} | {_shown(item.default)} | {item.metadata['about']} |")
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if default in ("", ()):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def updated(text: str) -> str:
    """Return the README with its table made anew."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + table() + _END + after


if __name__ == "__main__":
    if updated(old := _README.read_text("utf-8")) != old:
        _README.write_text(updated(old), "utf-8")
        sys.stdout.write("README.md has changed.\n")
