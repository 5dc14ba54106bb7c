"""The figures of a run, before they are made into tables."""

import statistics
from collections import defaultdict
from itertools import groupby


class Sheet:
    """Samples by table, row and column. Times are seconds, memory is bytes.

    Each is kept with the number of the round it was taken in: what was measured in one round can be compared,
    also on a machine whose speed changes from one to the next.
    """

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, dict[str, list[tuple[int, float]]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        self.round = 0
        self.notes: list[str] = []

    def add(self, table: str, row: str, column: str, *values: float) -> None:
        """Add samples of the present round."""
        self._samples[table][row][column].extend((self.round, value) for value in values)

    def copy(self, source: tuple[str, str, str], target: tuple[str, str, str]) -> None:
        """Add a cell's samples to another cell, each of its own round."""
        table, row, column = target
        if samples := self._cell(*source):
            self._samples[table][row][column].extend(samples)

    def median(self, table: str, row: str, column: str) -> float | None:
        """Return the median of a cell; None where nothing was measured."""
        values = [value for _, value in self._cell(table, row, column)]
        return statistics.median(values) if values else None

    def ratios(self, table: str, row: str, other: str, column: str) -> list[float]:
        """Return how many times the other row's sample each of a row's is, in the rounds that both have."""
        first, second = (self._by_round(table, each, column) for each in (row, other))
        return [
            mine / its
            for number in sorted(first.keys() & second.keys())
            for mine, its in zip(first[number], second[number], strict=False)
            if mine > 0 and its > 0
        ]

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
            table: {
                row: {column: [value for _, value in samples] for column, samples in columns.items()}
                for row, columns in rows.items()
            }
            for table, rows in self._samples.items()
        }

    def _cell(self, table: str, row: str, column: str) -> list[tuple[int, float]]:
        return self._samples.get(table, {}).get(row, {}).get(column, [])

    def _by_round(self, table: str, row: str, column: str) -> dict[int, list[float]]:
        samples = sorted(self._cell(table, row, column), key=lambda sample: sample[0])
        return {
            number: [value for _, value in of_it]
            for number, of_it in groupby(samples, key=lambda sample: sample[0])
        }
