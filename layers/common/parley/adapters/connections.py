"""Bounded, self-healing Postgres connections: a broken one is replaced unseen."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.types.json import set_json_dumps, set_json_loads

from parley.encoding import from_json, to_json
from parley.errors import StoreUnavailable
from parley.logs import logger

_log = logger("database")

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
# Returns the database's URL; is given the one that the server refused, when its password was changed.
UrlSource = Callable[[str | None], Awaitable[str]]

# The server rolled back by itself and asks to try again.
_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
# Later than this past its deadline, a wait was not too long: the process itself was away, frozen or starved.
_AWAY = 0.25
# What was prepared does not fit any more: a migration came in between, or a pooler changed the connection.
_STALE_PLANS = (errors.FeatureNotSupported, errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# The server is there but takes nobody right now: wait within the bound. While connecting, libpq passes on
# the server's words only, not its code.
_CROWDED = ("too many", "connection slots", "starting up", "shutting down", "recovery mode")


class Connections:
    """Up to `size` connections in autocommit mode, each running one statement at a time.

    Every statement that is run must be repeatable: a connection that breaks while it runs leaves
    open whether it took effect, and it is run again.
    """

    def __init__(self, url: "str | UrlSource", *, size: int, timeout: float, prepare: bool = False) -> None:
        """`url` may be a function that is asked at each new connection.

        `prepare` has the server keep the plan of what a connection runs again, which saves it half of the
        work; a pooler in between (RDS Proxy, PgBouncer) would pin the connection for it.
        """
        self._url = url
        self._timeout = timeout
        self._prepare = prepare
        self._idle: list[Connection] = []
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._late: set[asyncio.Future[list[Row]]] = set()

    async def run(self, statement: str, arguments: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Run one statement and return its rows, within the timeout.

        Raises `StoreUnavailable` where the server is away, too slow or full.
        """
        try:
            return await self._in_time(statement, arguments)
        except StoreUnavailable as error:
            # What the driver says may quote data; the kind of its error does not.
            _log.warning("database_unavailable", extra={"error": type(error.__cause__ or error).__name__})
            raise

    async def _in_time(self, statement: str, arguments: Sequence[object] | Mapping[str, object]) -> list[Row]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        if not self._places.locked():
            await self._places.acquire()  # which does not wait
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._places.acquire()
            except TimeoutError:
                raise StoreUnavailable from TimeoutError()
        begun = loop.time()
        task = loop.create_task(self._run(statement, arguments, deadline))
        try:
            done = await _done_by(task, deadline)
            if not done and loop.time() - deadline > _AWAY:
                # The answer may have come meanwhile, and wait in the socket.
                done = await _done_by(task, loop.time() + _AWAY)
        except asyncio.CancelledError:
            self._leave_behind(task)
            raise
        if not done:
            self._leave_behind(task)
            if loop.time() - begun > self._timeout / 2:
                # Where one connection has died without a word, its neighbours have too, most likely. A
                # statement that only came late to its connection says nothing about it.
                self._drop_idle()
            raise StoreUnavailable from TimeoutError()
        self._places.release()
        return task.result()

    def _leave_behind(self, task: "asyncio.Future[list[Row]]") -> None:
        """Let a statement whose caller is gone come to its end by itself, and keep its connection.

        To cancel it would have psycopg open a connection to ask the server for that, one for each late
        statement of a server that is late already. Only what is still there much later is cancelled.
        """
        prompt = len(self._late) < self._size
        self._late.add(task)
        timer = asyncio.get_running_loop().call_later(self._timeout * 2, task.cancel)

        def over(ended: "asyncio.Future[list[Row]]") -> None:
            timer.cancel()
            self._late.discard(ended)
            if not ended.cancelled():
                ended.exception()
            if not prompt:
                self._places.release()

        task.add_done_callback(over)
        if prompt:
            self._places.release()

    async def _run(
        self, statement: str, arguments: Sequence[object] | Mapping[str, object], deadline: float
    ) -> list[Row]:
        loop = asyncio.get_running_loop()
        broken = 0
        reason: Exception | None = None
        pause = 0.02
        while True:
            connection: Connection | None = None
            try:
                fresh = not self._idle
                connection = await self._take()
                rows = await _execute(connection, statement, arguments)
            except _AGAIN as error:
                reason = error
                assert connection is not None
                self._keep(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError, *_STALE_PLANS) as error:
                reason = error
                self._discard(connection)
                # The others in the pool broke for the same reason, most likely.
                self._drop_idle()
                crowded = connection is None and any(words in str(error) for words in _CROWDED)
                if not crowded:
                    broken += 1
                    # Who is not let in twice, or loses three connections, asks no further.
                    if fresh and broken > (1 if connection is None else 2):
                        raise StoreUnavailable from error
                    if broken == 1:
                        continue
            except asyncio.CancelledError:
                self._discard(connection)
                raise
            except psycopg.Error:
                if connection is not None:
                    self._keep(connection)
                raise
            else:
                self._keep(connection)
                return rows
            if loop.time() + pause > deadline:
                raise StoreUnavailable from reason
            await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 - jitter
            pause = min(pause * 2, 0.5)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await self._connect()

    async def _connect(self) -> Connection:
        if isinstance(self._url, str):
            return await self._open(self._url)
        url = await self._source(None)
        try:
            return await self._open(url)
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            renewed = await self._source(url)
            if renewed == url:
                raise
        return await self._open(renewed)

    async def _source(self, refused: str | None) -> str:
        """Ask for the URL; whatever keeps its secret away keeps the database away."""
        assert not isinstance(self._url, str)
        try:
            return await self._url(refused)
        except Exception as error:
            raise StoreUnavailable from error

    async def _open(self, url: str) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            prepare_threshold=1 if self._prepare else None,
            connect_timeout=max(2, round(self._timeout)),
            # What nobody acknowledges for so long is lost: time is left to ask again on a new connection.
            tcp_user_timeout=round(self._timeout * 400),
            application_name="parley",
        )
        set_json_loads(from_json, connection)
        set_json_dumps(to_json, connection)
        return connection

    def _discard(self, connection: Connection | None) -> None:
        if connection is not None:
            # `finish` closes the socket at once; the async `close` may wait for the server.
            with contextlib.suppress(psycopg.Error):
                connection.pgconn.finish()

    def _keep(self, connection: Connection) -> None:
        # Late statements have connections beyond the size, for as long as they last.
        if len(self._idle) < self._size:
            self._idle.append(connection)
        else:
            self._discard(connection)

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            self._discard(connection)

    async def close(self) -> None:
        """Close the connections; what is still under way is cancelled."""
        for task in list(self._late):
            task.cancel()
        if self._late:
            await asyncio.wait(self._late, timeout=self._timeout)
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()


async def _done_by(task: "asyncio.Task[list[Row]]", deadline: float) -> bool:
    """Wait until the task is done, or the event loop's time is `deadline`; tell which.

    `asyncio.wait` does the same for any number of tasks, at several times the price.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_at(deadline, wake)
    task.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
    return task.done()


async def _execute(
    connection: Connection, statement: str, arguments: Sequence[object] | Mapping[str, object]
) -> list[Row]:
    cursor = await connection.execute(statement.encode(), arguments)
    # `description` would tell as well, by an object for each column.
    result = cursor.pgresult
    return await cursor.fetchall() if result is not None and result.nfields else []
