"""Sets the present build beside an older one: for each figure, how many times the old one's it is."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.builds import Build, Revision
from bench.report import Column, Table
from bench.sheet import Sheet

_ABOUT = (
    "The present build, and that of {short}, “{subject}”, as one more contender of the same run. Ratio:"
    " present by old, the median of the rounds' own ratios, and the least and the greatest of them. Below 1"
    " the present build takes less; of rates, and of what is delivered, more is better. A range around 1 says"
    " nothing."
)


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of both builds, as it is written, and its ratio in each round."""

    figure: str
    present: str
    past: str
    ratios: tuple[float, ...]


def compare(sheet: Sheet, tables: Sequence[Table], present: Build, past: Build) -> list[Line]:
    """Return a line for each figure that both builds have."""
    return [
        line
        for table in tables
        for column in table.columns
        for line in _lines(sheet, column, present.label, past.label)
    ]


def _lines(sheet: Sheet, column: Column, present: str, past: str) -> Iterator[Line]:
    for row in sheet.rows(column.table):
        # Where the rows are not the contenders', the old build has rows of its own beside the present one's.
        other = row.replace(present, past) if present in row else f"{row}, {past}"
        mine, its = (sheet.median(column.table, each, column.name) for each in (row, other))
        if mine is None or its is None:
            continue
        which = row.replace(present, "").removeprefix(", ")
        figure = f"{column.table.partition('_')[0]}: {column.alone or column.title}"
        ratios = sheet.ratios(column.table, row, other, column.name)
        yield Line(
            f"{figure}, {which}" if which else figure, column.form(mine), column.form(its), tuple(ratios)
        )


def section(lines: Sequence[Line], revision: Revision) -> str:
    """Return the section of the report."""
    about = _ABOUT.format(short=revision.short, subject=revision.subject)
    titles = f"| | present | {revision.short} | ratio | from | to | rounds |"
    rows = [_row(line) for line in lines] or ["| nothing was measured of both | | | | | | |"]
    return "\n".join([f"## Beside {revision.short}", "", about, "", titles, "|---" * 7 + "|", *rows])


def _row(line: Line) -> str:
    ratios = line.ratios
    middle = f"{statistics.median(ratios):.2f}" if ratios else "–"
    least, most = (f"{min(ratios):.2f}", f"{max(ratios):.2f}") if len(ratios) > 1 else ("–", "–")
    return f"| {line.figure} | {line.present} | {line.past} | {middle} | {least} | {most} | {len(ratios)} |"
