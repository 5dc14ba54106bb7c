"""A statement as one connection caches it: numbered placeholders, its values' adapters and its plans."""

import functools
import hashlib
import re
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer

Row = tuple[Any, ...]

_PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?s")


class Statement:
    """A connection's cache entry for one statement: its query, its transformer, and its plans.

    `plans` has the plan's name for each tuple of parameter types (OIDs). An empty name says that the
    statement ran once with those types and was not prepared.
    """

    __slots__ = ("formats", "names", "plans", "query", "transformer")

    def __init__(self, connection: psycopg.Connection[Row], statement: str) -> None:
        self.query, self.names, count = numbered(statement)
        self.formats = [PyFormat.AUTO] * count
        self.transformer = Transformer(connection)
        self.plans: dict[tuple[int, ...], bytes] = {}

    def rows(self, result: Any) -> list[Row]:
        """Return the rows of a libpq result; an empty list for a statement that returns no columns."""
        if not result.nfields:
            return []
        try:
            self.transformer.set_pgresult(result)
            rows: list[Row] = self.transformer.load_rows(0, result.ntuples, tuple)
        finally:
            # The transformer lives as long as the connection and would keep the result in memory.
            self.transformer.set_pgresult(None)
        return rows

    def name_of_plan(self, types: tuple[int, ...]) -> bytes:
        """Return the plan's name, a hash of the query and its parameter types.

        A pooler may hand one server connection to several clients. With hashed names, another client's plan
        of that name is a plan of the same statement.
        """
        told = hashlib.sha256(b"%b %b" % (self.query, repr(types).encode())).hexdigest()
        return b"parley_" + told[:24].encode()


@functools.cache
def numbered(statement: str) -> tuple[bytes, tuple[str, ...], int]:
    """Return the query with `%s` or `%(name)s` replaced by `$1`, `$2` …, their names, and their count.

    Names are in the order of their numbers; a name that occurs twice has one number. Raises `ValueError` if
    a statement mixes both forms or has any other `%`.
    """
    names: list[str] = []
    count = 0

    def number(found: "re.Match[str]") -> str:
        nonlocal count
        name = found[1]
        if name is None:
            count += 1
            return f"${count}"
        if name not in names:
            names.append(name)
            count += 1
        return f"${names.index(name) + 1}"

    query = _PLACEHOLDER.sub(number, statement)
    if "%" in query or len(names) not in (0, count):
        raise ValueError("placeholders are %s, or all of them %(name)s, and nothing else has a %")
    return query.encode(), tuple(names), count
