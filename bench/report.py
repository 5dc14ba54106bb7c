"""Makes tables of a sheet: medians, and how many times a baseline's that is."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.sheet import Sheet

_RESULTS = Path(__file__).parent / "results"


def ms(value: float) -> str:
    """Format seconds as milliseconds."""
    return _round(value * 1e3)


def us(value: float) -> str:
    """Format seconds as microseconds."""
    return _round(value * 1e6)


def kb(value: float) -> str:
    """Format bytes as kilobytes."""
    return _round(value / 1024)


def mb(value: float) -> str:
    """Format bytes as megabytes."""
    return _round(value / 2**20)


def share(value: float) -> str:
    """Format a share as per cent."""
    return f"{value * 100:.0f} %"


def plain(value: float) -> str:
    """Format a number as it is."""
    return _round(value)


def whole(value: float) -> str:
    """Format a count."""
    return f"{value:,.0f}"


def dollars(value: float) -> str:
    """Format dollars."""
    return f"{value:.2g}" if value < 0.001 else f"{value:.4f}"


def _round(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Column:
    """A column: where its figures are, how they are written, and which row they are compared with.

    `alone` is its title where it stands without the columns before it.
    """

    title: str
    table: str
    name: str
    form: Callable[[float], str]
    baseline: str = ""
    alone: str = ""


@dataclass(frozen=True)
class Table:
    """A table; rows that have none of its columns are left out."""

    title: str
    about: str
    columns: Sequence[Column]
    first: str = ""


def markdown(sheet: Sheet, tables: Sequence[Table], order: Sequence[str], *sections: str) -> str:
    """Return all tables, below the sections that come first."""
    parts = [_header(), *sections]
    for table in tables:
        lines = _lines(sheet, table, order)
        if lines:
            parts.append(f"## {table.title}\n\n{table.about}\n\n" + "\n".join(lines))
    if sheet.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in sheet.notes))
    return "\n\n".join(parts) + "\n"


def _header() -> str:
    about = machine.description()
    return (
        f"# Benchmark of {time.strftime('%Y-%m-%d')}\n\n"
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}. "
        "Medians; in brackets, how many times the baseline. docs/performance.md says what is measured."
    )


def _lines(sheet: Sheet, table: Table, order: Sequence[str]) -> list[str]:
    found = {row for column in table.columns for row in sheet.rows(column.table)}
    rows = [row for row in order if row in found] + sorted(found - set(order), key=_natural)
    lines = []
    for row in rows:
        cells = [_cell(sheet, column, row) for column in table.columns]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    titles = " | ".join(column.title for column in table.columns)
    return [f"| {table.first} | {titles} |", "|---" * (len(table.columns) + 1) + "|", *lines]


def _natural(row: str) -> list[str | int]:
    """Return a key that sorts numbers in a name by their value."""
    parts = re.split(r"(\d+(?:,\d{3})*)", row)
    return [int(part.replace(",", "")) if place % 2 else part for place, part in enumerate(parts)]


def _cell(sheet: Sheet, column: Column, row: str) -> str:
    value = sheet.median(column.table, row, column.name)
    if value is None:
        return "–"
    text = column.form(value)
    base = sheet.median(column.table, column.baseline, column.name) if column.baseline else None
    if base and row != column.baseline:
        times = value / base
        text += f" ({times:.1f}×)" if times < 100 else f" ({times:.0f}×)"
    return text


def write(sheet: Sheet, text: str, *, name: str, **further: object) -> Path:
    """Write the results as Markdown, and as JSON with whatever else is given; return the Markdown's path."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{name}.md"
    path.write_text(text, "utf-8")
    body = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.description(),
        "notes": sheet.notes,
        **further,
        "samples": sheet.plain(),
    }
    path.with_suffix(".json").write_text(json.dumps(body, indent=1, default=float) + "\n", "utf-8")
    return path
