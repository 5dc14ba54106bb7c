"""What a connection keeps of a statement, and how its placeholders become the server's."""

import functools
import hashlib
import re
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer

Row = tuple[Any, ...]

_PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?s")


class Statement:
    """What a connection keeps of a statement: how its values are written, and its plans by their types."""

    __slots__ = ("formats", "names", "plans", "query", "transformer")

    def __init__(self, connection: psycopg.Connection[Row], statement: str) -> None:
        self.query, self.names, count = numbered(statement)
        self.formats = [PyFormat.AUTO] * count
        self.transformer = Transformer(connection)
        self.plans: dict[tuple[int, ...], bytes] = {}

    def rows(self, result: Any) -> list[Row]:
        """Return what the server answered."""
        if not result.nfields:
            return []
        try:
            self.transformer.set_pgresult(result)
            rows: list[Row] = self.transformer.load_rows(0, result.ntuples, tuple)
        finally:
            self.transformer.set_pgresult(None)  # it would keep what it read, for as long as the connection
        return rows

    def name_of_plan(self, types: tuple[int, ...]) -> bytes:
        """Return a plan's name, which no other statement's has, whoever else makes plans there."""
        told = hashlib.sha256(b"%b %b" % (self.query, repr(types).encode())).hexdigest()
        return b"parley_" + told[:24].encode()


@functools.cache
def numbered(statement: str) -> tuple[bytes, tuple[str, ...], int]:
    """Return a statement with its `%s` or `%(name)s` as `$1`…, the names in that order, and how many.

    Raises `ValueError` for one that has both, or any other `%`.
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
