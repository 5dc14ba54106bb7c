"""The figures of a run, before they are made into tables."""

import statistics
from collections import defaultdict


class Sheet:
    """Samples by table, row and column. Times are seconds, memory is bytes."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        self.notes: list[str] = []

    def add(self, table: str, row: str, column: str, *values: float) -> None:
        """Add samples."""
        self._samples[table][row][column].extend(values)

    def median(self, table: str, row: str, column: str) -> float | None:
        """Return the median of a cell; None where nothing was measured."""
        values = self._samples.get(table, {}).get(row, {}).get(column)
        return statistics.median(values) if values else None

    def rows(self, table: str) -> list[str]:
        """Return a table's rows, in the order they came in."""
        return list(self._samples.get(table, {}))

    def note(self, text: str) -> None:
        """Say something that a reader of the figures has to know."""
        if text not in self.notes:
            self.notes.append(text)

    def plain(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return all samples, for JSON."""
        return {
            table: {row: dict(columns) for row, columns in rows.items()}
            for table, rows in self._samples.items()
        }
