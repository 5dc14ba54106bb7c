"""One connection to Postgres, over which one statement at a time is run without a cursor.

psycopg opens the connection, writes the values and reads them, and libpq speaks to the server. What is left
out is psycopg's way from the one to the other, for it costs twice as much as all the rest: cursors,
generators, and a socket that is registered with the event loop and forgotten again at every wait.
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
# libpq would give such a result again and again until somebody copies, which nobody does here.
_COPIES = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class DeadlineExceeded(Exception):
    """The deadline has come, and no answer."""


class Connection(Deadline):
    """A connection in autocommit mode; open one by `Connection.open`.

    With `prepare` the server keeps a plan of each statement that it is asked again.
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
        """Connect; raises `psycopg.OperationalError`. The timeouts are made of `timeout`, in seconds.

        That is done in a thread: while it connects, libpq closes and opens sockets as it likes, which an
        event loop that watched them would not be told.
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
        """Run a statement; the future gets its rows, or an exception, mostly a `psycopg.Error`.

        It gets `DeadlineExceeded` when the event loop's time is `deadline`. That, or to cancel the future,
        ends the statement no sooner: `outcome_after_deadline` tells of it. The next may be asked once this
        one has ended.
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
        """Return what becomes of a statement whose future was too early, or was cancelled."""
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
        """Whether libpq has closed the socket by itself, whose number may soon be another's."""
        return self._libpq.status != ConnStatus.OK

    def _send(self, statement: str, arguments: Arguments) -> None:
        asked = self._statements.get(statement)
        if asked is None:
            asked = self._statements[statement] = Statement(self._connection, statement)
        if isinstance(arguments, dict):
            arguments = [arguments[name] for name in asked.names]
        if len(arguments) != len(asked.formats):
            # psycopg reads past the end of its own list otherwise.
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
            # A plan takes a round trip of its own: it is made for what is asked again.
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
                # What comes after an error says less.
                if self._result is None or self._result.status in _WELL:
                    self._result = result
        except psycopg.OperationalError as error:
            self._break(error)

    def _on_answer(self) -> None:
        """All results of what was asked have come."""
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
                # What cannot be read is the asker's to know, not the event loop's.
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
        if answer.done():
            self._missed = outcome
        else:
            _tell(answer, outcome)

    def _break(self, error: Exception) -> None:
        self._end(error)
        self.close()

    def close(self) -> None:
        """Close the socket at once; what is under way fails."""
        if self.closed:
            return
        self.closed = True
        self._cancel_timer()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(psycopg.Error):
            self._libpq.finish()
        self._end(psycopg.OperationalError("the connection was closed"))


def _in_a_thread(work: "Callable[[], psycopg.Connection[Row]]") -> "Future[psycopg.Connection[Row]]":
    """Run work that takes its time, in a thread that nobody waits for when the process ends."""
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
        # What nobody acknowledges for so long is lost: time is left to ask again on a new connection.
        tcp_user_timeout=round(timeout * 400),
        application_name="parley",
    )
    set_json_loads(from_json, connection)
    set_json_dumps(to_json, connection)
    return connection


def _close(connecting: "Future[psycopg.Connection[Row]]") -> None:
    """Close a connection that nobody waits for any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _tell(future: "asyncio.Future[list[Row]]", outcome: list[Row] | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
