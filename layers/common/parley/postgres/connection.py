"""A connection to Postgres that runs one statement at a time through libpq, without psycopg's cursors.

psycopg connects, and converts values and rows; libpq speaks the protocol. This module replaces psycopg's
cursors and generators, which register the socket with the event loop anew at every wait. They took more
processor time than all the rest together (docs/decisions, statements without cursors).
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.types.json import set_json_dumps, set_json_loads

from parley.postgres.prepared import Row, Statement
from parley.support.encoding import from_json, to_json
from parley.support.timer import Deadline

Arguments = Sequence[object] | dict[str, Any]

_WELL = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
# libpq returns a COPY result again and again until the client copies. Parley never copies.
_COPIES = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class DeadlineExceeded(Exception):
    """The deadline passed before the server sent the result."""


class Connection(Deadline):
    """A connection in autocommit mode. `Connection.open` makes one.

    With `prepare`, the server keeps a plan of each statement that runs a second time.
    """

    def __init__(self, connection: psycopg.Connection[Row], *, prepare: bool) -> None:
        super().__init__()
        self._connection = connection
        self._libpq = connection.pgconn
        self._prepare = prepare
        self._statements: dict[str, Statement] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = self._libpq.socket
        self._answer: asyncio.Future[list[Row]] | None = None
        self._missed: list[Row] | Exception = []
        self._asked: Statement | None = None
        self._values: Sequence[Any] = ()
        self._planning: bytes | None = None
        self._result: Any = None
        self._full = False
        self.closed = False
        self._loop.add_reader(self._socket, self._on_readable)

    @classmethod
    async def open(cls, url: str, *, timeout: float, prepare: bool) -> "Connection":
        """Connect, with libpq's timeouts derived from `timeout` in seconds.

        Connecting runs in a thread: libpq closes and opens sockets while it connects, and an event loop that
        watched them would not learn of it. Raises `psycopg.OperationalError`.
        """
        connecting = _in_a_thread(lambda: _connect(url, timeout))
        try:
            connection = await asyncio.wrap_future(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)
            raise
        return cls(connection, prepare=prepare)

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket

    def execute(
        self, statement: str, arguments: Arguments = (), deadline: float = math.inf
    ) -> "asyncio.Future[list[Row]]":
        """Run a statement. The future's result is a list of rows; its exception is usually a `psycopg.Error`.

        The future fails with `DeadlineExceeded` at `deadline`, in the event loop's time. Neither a deadline
        nor a cancellation of the future ends the statement: `outcome_after_deadline` returns its outcome.
        Raises `RuntimeError` if the previous statement still runs.
        """
        if self._answer is not None:
            raise RuntimeError("a connection runs one statement at a time")
        answer = self._answer = self._loop.create_future()
        self._reschedule(deadline)
        try:
            self._send(statement, arguments)
        except Exception as error:
            self._end(error)
            if self._lost:
                self.close()
        return answer

    def outcome_after_deadline(self) -> "asyncio.Future[list[Row]]":
        """Return a new future for a statement whose first future timed out or was cancelled."""
        rest: asyncio.Future[list[Row]] = self._loop.create_future()
        self._reschedule(math.inf)
        if self._answer is not None:
            self._answer = rest
        else:
            _tell(rest, self._missed)
            self._missed = []
        return rest

    def _on_deadline(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DeadlineExceeded())

    @property
    def _lost(self) -> bool:
        """Whether libpq has closed the socket itself; its descriptor may soon belong to another socket."""
        return self._libpq.status != ConnStatus.OK

    def _send(self, statement: str, arguments: Arguments) -> None:
        asked = self._statements.get(statement)
        if asked is None:
            asked = self._statements[statement] = Statement(self._connection, statement)
        if isinstance(arguments, dict):
            arguments = [arguments[name] for name in asked.names]
        if len(arguments) != len(asked.formats):
            # Otherwise psycopg reads past the end of its own list.
            raise psycopg.ProgrammingError("not as many values as placeholders")
        self._asked = asked
        self._values = asked.transformer.dump_sequence(arguments, asked.formats)
        types = asked.transformer.types or ()
        plan = asked.plans.get(types)
        if plan:
            self._libpq.send_query_prepared(plan, self._values, asked.transformer.formats)
        elif self._prepare and plan is not None:
            self._planning = asked.name_of_plan(types)
            self._libpq.send_prepare(self._planning, asked.query, types)
        else:
            # Preparing a plan costs one more round trip, so only a statement's second run pays for it.
            asked.plans[types] = b""
            self._libpq.send_query_params(asked.query, self._values, types, asked.transformer.formats)
        self._flush()

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
        try:
            self._libpq.consume_input()
            # libpq's rule for non-blocking sends: after reading, flush again, since a server that waits for
            # its client to read may have stopped reading itself.
            if self._full:
                self._flush()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()
                if result is None:
                    self._on_answer()
                    return
                if result.status in _COPIES:
                    self._break(psycopg.OperationalError("the server would copy"))
                    return
                # Keep the first error: libpq's later results are less specific.
                if self._result is None or self._result.status in _WELL:
                    self._result = result
        except psycopg.OperationalError as error:
            self._break(error)

    def _on_answer(self) -> None:
        """Handle the result, once libpq has returned the last one of the statement."""
        result, self._result = self._result, None
        if self._lost:
            self._break(psycopg.OperationalError("the connection is lost"))
            return
        if self._answer is None or result is None:
            return
        if result.status not in _WELL:
            self._end(psycopg.errors.error_from_result(result))
        elif self._planning is not None:
            self._plan_made()
        else:
            assert self._asked is not None
            try:
                self._end(self._asked.rows(result))
            except Exception as error:
                # A value that cannot be decoded is the caller's error, not the event loop's.
                self._end(error)

    def _plan_made(self) -> None:
        asked, plan = self._asked, self._planning
        assert asked is not None
        assert plan is not None
        self._planning = None
        transformer = asked.transformer
        asked.plans[transformer.types or ()] = plan
        try:
            self._libpq.send_query_prepared(plan, self._values, transformer.formats)
            self._flush()
        except psycopg.OperationalError as error:
            self._break(error)

    def _end(self, outcome: list[Row] | Exception) -> None:
        answer, self._answer = self._answer, None
        self._values = ()
        self._planning = None
        if answer is None:
            return
        # The statement ended between its deadline and the call of `outcome_after_deadline`.
        if answer.done():
            self._missed = outcome
        else:
            _tell(answer, outcome)

    def _break(self, error: Exception) -> None:
        self._end(error)
        self.close()

    def close(self) -> None:
        """Close the socket at once. A running statement fails with `psycopg.OperationalError`."""
        if self.closed:
            return
        self.closed = True
        self._cancel_timer()
        # Before `finish` closes the socket: uvloop aborts the process for a watched socket that is closed.
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(psycopg.Error):
            self._libpq.finish()
        self._end(psycopg.OperationalError("the connection was closed"))


def _in_a_thread(work: "Callable[[], psycopg.Connection[Row]]") -> "Future[psycopg.Connection[Row]]":
    """Run blocking work in a daemon thread, for which the process does not wait when it exits."""
    future: Future[psycopg.Connection[Row]] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="database", daemon=True).start()
    return future


def _connect(url: str, timeout: float) -> psycopg.Connection[Row]:
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=max(2, round(timeout)),
        # In milliseconds. Data unacknowledged for 40 % of the timeout is lost, which leaves time to repeat
        # the statement on a new connection.
        tcp_user_timeout=round(timeout * 400),
        application_name="parley",
    )
    set_json_loads(from_json, connection)
    set_json_dumps(to_json, connection)
    return connection


def _close(connecting: "Future[psycopg.Connection[Row]]") -> None:
    """Close a connection whose `open` was cancelled while it connected."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _tell(future: "asyncio.Future[list[Row]]", outcome: list[Row] | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
