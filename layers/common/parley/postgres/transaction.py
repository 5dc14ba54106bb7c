"""A transaction of two round trips: read, decide, write."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import psycopg

from parley.postgres.batch import Query
from parley.postgres.prepared import Row

T = TypeVar("T")


class Outdated(psycopg.OperationalError):
    """A write met what another transaction wrote after this one had read: decide anew."""


class DecisionFailed(Exception):
    """`decide` raised `error`, which is no fault of the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


# Bounds the transaction that it is called in, as a column of the `select` that takes the first lock.
BOUND = "bound_transaction()"


class Transaction(Generic[T]):
    """Statements that read, and a function that returns from their rows what to write.

    `reads` are sent in one batch, each seeing what was committed before it began. `decide` gets their rows,
    in order, and returns the statements to write and the transaction's result; without statements, the
    transaction is rolled back. `decide` runs in the event loop while locks are held, so it must neither wait
    nor change anything: like a statement, a transaction is repeated after a lost connection.
    """

    __slots__ = ("decide", "reads", "withdrawn")

    def __init__(
        self, reads: Sequence[Query], decide: Callable[[list[list[Row]]], tuple[Sequence[Query], T]]
    ) -> None:
        self.reads = reads
        self.decide = decide
        # Nobody waits for the result any more: a transaction that has not decided yet writes nothing.
        self.withdrawn = False
