"""A connection to Postgres that runs one statement or transaction at a time through libpq.

psycopg connects, and converts values and rows; libpq speaks the protocol. This module replaces psycopg's
cursors and generators, which register the socket with the event loop anew at every wait. They took more
processor time than all the rest together (docs/decisions, statements without cursors).
"""

import asyncio
import contextlib
import math
import select
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from parley.postgres.batch import Arguments, Batch, Cache, Query
from parley.postgres.connecting import connect
from parley.postgres.prepared import Row
from parley.postgres.transaction import DecisionFailed, Outdated, Transaction
from parley.support.timer import Deadline

T = TypeVar("T")

# By name, since a database may have other defaults. The snapshot has to come after the locks.
_BEGIN: Query = ("begin isolation level read committed read write", ())
# Of a transaction's writes: a row came, or went, between what it read and what it writes.
_OUTDATED = (errors.UniqueViolation, errors.ForeignKeyViolation)
_COMMIT: Query = ("commit", ())
_ROLLBACK: Query = ("rollback", ())


class DeadlineExceeded(Exception):
    """The deadline passed before the server sent the result."""


class Connection(Deadline):
    """A connection in autocommit and pipeline mode. `Connection.open` makes one.

    With `prepare`, the server keeps a plan of each statement that runs a second time.
    """

    def __init__(self, connection: psycopg.Connection[Row], *, prepare: bool) -> None:
        super().__init__()
        self._connection = connection
        self._libpq = connection.pgconn
        self._libpq.enter_pipeline_mode()
        self._cache = Cache(connection, prepare=prepare)
        self._loop = asyncio.get_running_loop()
        self._socket = self._libpq.socket
        self._answer: asyncio.Future[Any] | None = None
        self._missed: tuple[Any, Exception | None] = (None, None)
        self._batch: Batch | None = None
        # What runs when the batch on its way has ended well.
        self._next: Callable[[list[list[Row]]], None] = self._end_statement
        self._writing = False
        self._rolling_back = False
        self._full = False
        self.closed = False
        self._errors = select.poll()
        self._errors.register(self._socket, 0)
        self._loop.add_reader(self._socket, self._on_readable)

    @classmethod
    async def open(cls, url: str, *, timeout: float, prepare: bool) -> "Connection":
        """Connect, with libpq's timeouts derived from `timeout` in seconds.

        Raises `psycopg.OperationalError`.
        """
        return cls(await connect(url, timeout), prepare=prepare)

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket

    def execute(
        self, statement: str, arguments: Arguments = (), deadline: float = math.inf
    ) -> "asyncio.Future[list[Row]]":
        """Run a statement. The future's result is a list of rows; its exception is usually a `psycopg.Error`.

        The future fails with `DeadlineExceeded` at `deadline`, in the event loop's time. Neither a deadline
        nor a cancellation of the future ends the statement: `outcome_after_deadline` returns its outcome.
        Raises `RuntimeError` if the previous statement or transaction still runs.
        """
        return self._begin([(statement, arguments)], self._end_statement, deadline)

    def transact(self, transaction: Transaction[T], deadline: float = math.inf) -> "asyncio.Future[T]":
        """Run a transaction. The future's result is what `transaction.decide` returns beside its writes.

        The future is done once the server has committed, or rolled back. It fails with `DecisionFailed` for
        what `decide` raises, and with `Outdated` where a write violates a unique or foreign key. Else as
        `execute`.
        """

        def write(rows: list[list[Row]]) -> None:
            if transaction.withdrawn:
                self._roll_back()
                return
            try:
                writes, result = transaction.decide(rows[1:])
            except Exception as error:
                self._roll_back(error=DecisionFailed(error))
                return
            if not writes:
                self._roll_back(result)
                return
            try:
                batch = Batch([*writes, _COMMIT], self._cache)
            except Exception as error:
                self._roll_back(error=error)
                return
            self._writing = True
            self._send(batch, lambda _: self._end(result))

        return self._begin([_BEGIN, *transaction.reads], write, deadline)

    def _begin(
        self, queries: Sequence[Query], then: Callable[[list[list[Row]]], None], deadline: float
    ) -> "asyncio.Future[Any]":
        if self._answer is not None:
            raise RuntimeError("a connection runs one statement or transaction at a time")
        answer = self._answer = self._loop.create_future()
        self._reschedule(deadline)
        try:
            batch = Batch(queries, self._cache)
        except Exception as error:
            # Nothing was sent: the connection is as it was.
            self._end(error=error)
        else:
            self._send(batch, then)
        return answer

    def _send(self, batch: Batch, then: Callable[[list[list[Row]]], None]) -> None:
        self._batch, self._next = batch, then
        try:
            batch.send(self._libpq)
            self._flush()
        except Exception as error:
            # Half a batch cannot be taken back.
            self._break(error)

    def outcome_after_deadline(self) -> "asyncio.Future[Any]":
        """Return a new future for what runs after its first future timed out or was cancelled."""
        rest: asyncio.Future[Any] = self._loop.create_future()
        self._reschedule(math.inf)
        if self._answer is not None:
            self._answer = rest
        else:
            _tell(rest, *self._missed)
            self._missed = (None, None)
        return rest

    def _on_deadline(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DeadlineExceeded())

    @property
    def _lost(self) -> bool:
        """Whether libpq has closed the socket itself; its descriptor may soon belong to another socket."""
        return self._libpq.status != ConnStatus.OK

    def _flush(self) -> None:
        full = bool(self._libpq.flush())
        if full and not self._full:
            self._loop.add_writer(self._socket, self._on_writable)
        elif self._full and not full:
            self._loop.remove_writer(self._socket)
        self._full = full

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.OperationalError as error:
            self._break(error)

    def _on_readable(self) -> None:
        self._read()
        # uvloop 0.23 calls a reader once, and never again, if the socket has a pending error
        # (findings/uvloop-reader-called-once.sh). So all that such a socket holds is read now.
        while not self.closed and self._errors.poll(0):
            self._read()

    def _read(self) -> None:
        """Read what libpq reads at once, and go on with it."""
        try:
            self._libpq.consume_input()
            # libpq's rule for non-blocking sends: after reading, flush again, since a server that waits for
            # its client to read may have stopped reading itself.
            if self._full:
                self._flush()
            while not self._libpq.is_busy() and self._batch is not None:
                result = self._libpq.get_result()
                if result is None:
                    if self._lost:
                        break
                elif result.status == ExecStatus.PIPELINE_SYNC:
                    self._on_end()
                else:
                    self._batch.take(result)
                    # The null that ends a statement is there with its result.
                    self._libpq.get_result()
        except psycopg.OperationalError as error:
            self._break(error)
            return
        if self._lost:
            self._break(psycopg.OperationalError("the connection is lost"))

    def _on_end(self) -> None:
        """Go on after a batch."""
        batch, self._batch = self._batch, None
        assert batch is not None
        if batch.error is None:
            self._next(batch.rows)
        elif self._rolling_back:
            self._break(batch.error)
        elif self._writing and isinstance(batch.error, _OUTDATED):
            self._roll_back(error=Outdated())
        else:
            self._roll_back(error=batch.error)

    def _end_statement(self, rows: list[list[Row]]) -> None:
        self._end(rows[0])

    def _roll_back(self, result: Any = None, error: Exception | None = None) -> None:
        """End with `result` or `error` once no transaction is open any more."""
        if self._libpq.transaction_status == TransactionStatus.IDLE:
            self._end(result, error)
            return
        self._rolling_back = True
        self._send(Batch([_ROLLBACK], self._cache), lambda _: self._end(result, error))

    def _end(self, result: Any = None, error: Exception | None = None) -> None:
        answer, self._answer = self._answer, None
        self._next = self._end_statement
        self._writing = self._rolling_back = False
        if answer is None:
            return
        # It ended between its deadline and the call of `outcome_after_deadline`.
        if answer.done():
            self._missed = (result, error)
        else:
            _tell(answer, result, error)

    def _break(self, error: Exception) -> None:
        self._batch = None
        self._end(error=error)
        self.close()

    def close(self) -> None:
        """Close the socket at once. What runs fails with `psycopg.OperationalError`."""
        if self.closed:
            return
        self.closed = True
        self._cancel_timer()
        # Before `finish` closes the socket: uvloop aborts the process for a watched socket that is closed.
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._batch = None
        with contextlib.suppress(psycopg.Error):
            self._libpq.finish()
        self._end(error=psycopg.OperationalError("the connection was closed"))


def _tell(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
