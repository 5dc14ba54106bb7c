"""Bounded, self-healing Postgres connections: a broken one is replaced unseen."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import errors

from parley.domain.errors import StoreUnavailable
from parley.postgres.connection import Arguments, Connection, DeadlineExceeded
from parley.postgres.prepared import Row
from parley.support.logs import logger
from parley.support.semaphore import FastSemaphore

_logger = logger("database")

# Returns the database's URL; is given the one that the server refused, when its password was changed.
UrlSource = Callable[[str | None], Awaitable[str]]

# The server rolled back by itself and asks to try again.
_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
# Later than this past its deadline, a wait was not too long: the process itself was away, frozen or starved.
_AWAY = 0.25
# Before the first try after the server asked for one, in seconds; twice as much before each further one.
_PAUSE = 0.02
# What was prepared does not fit any more: a migration came in between, or a pooler changed the connection.
_STALE_PLANS = (errors.FeatureNotSupported, errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# Those above are among them, by their class.
_BROKEN = (psycopg.OperationalError, psycopg.InterfaceError, OSError, *_STALE_PLANS)
# The server is there but takes nobody right now: wait within the bound. While connecting, libpq passes on
# the server's words only, not its code.
_CROWDED = ("too many", "connection slots", "starting up", "shutting down", "recovery mode")


class Pool:
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
        self._semaphore = FastSemaphore(size)
        self._late: set[asyncio.Future[list[Row]]] = set()

    async def run(self, statement: str, arguments: Arguments = ()) -> list[Row]:
        """Run one statement and return its rows, within the timeout.

        Raises `StoreUnavailable` where the server is away, too slow or full.
        """
        try:
            return await self._in_time(statement, arguments)
        except StoreUnavailable as error:
            # What the driver says may quote data; the kind of its error does not.
            _logger.warning("database_unavailable", extra={"error": type(error.__cause__ or error).__name__})
            raise

    async def _in_time(self, statement: str, arguments: Arguments) -> list[Row]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        if not self._semaphore.try_acquire():
            try:
                await self._semaphore.wait(deadline)
            except TimeoutError as error:
                raise StoreUnavailable from error
        broken, pause = 0, 0.0
        if (connection := self._take()) is not None:
            # Mostly a connection that is there answers at the first try, which takes no task.
            try:
                rows = await self._execute(connection, statement, arguments, deadline)
            except StoreUnavailable:
                raise
            except Exception as error:
                self._take_back(connection, error)
                if not isinstance(error, _BROKEN):
                    self._semaphore.release()
                    raise
                if isinstance(error, _AGAIN):
                    pause = _PAUSE
                else:
                    broken = 1
            else:
                self._keep(connection)
                self._semaphore.release()
                return rows
        begun = loop.time()
        task = loop.create_task(self._run(statement, arguments, deadline, broken, pause))
        await self._done(task, begun, deadline)
        self._semaphore.release()
        return task.result()

    async def _execute(
        self, connection: Connection, statement: str, arguments: Arguments, deadline: float
    ) -> list[Row]:
        begun = asyncio.get_running_loop().time()
        try:
            return await connection.execute(statement, arguments, deadline)
        except DeadlineExceeded:
            rest = connection.outcome_after_deadline()
        except asyncio.CancelledError:
            self._leave_behind(connection.outcome_after_deadline(), connection)
            raise
        await self._done(rest, begun, deadline, connection)
        return rest.result()

    async def _done(
        self,
        work: "asyncio.Future[list[Row]]",
        begun: float,
        deadline: float,
        connection: Connection | None = None,
    ) -> None:
        """Wait until the work is done; raises `StoreUnavailable` once the event loop's time is `deadline`.

        It goes on without its caller then, or when that one is cancelled, and gives its place back itself.
        `connection` is the connection that it has, unless it takes care of that too.
        """
        loop = asyncio.get_running_loop()
        try:
            done = await _done_by(work, deadline)
            if not done and loop.time() - deadline > _AWAY:
                # The answer may have come meanwhile, and wait in the socket.
                done = await _done_by(work, loop.time() + _AWAY)
        except asyncio.CancelledError:
            self._leave_behind(work, connection)
            raise
        if not done:
            self._leave_behind(work, connection)
            if loop.time() - begun > self._timeout / 2:
                # Where one connection has died without a word, its neighbours have too, most likely. A
                # statement that only came late to its connection says nothing about it.
                self._drop_idle()
            raise StoreUnavailable from TimeoutError()

    def _leave_behind(self, work: "asyncio.Future[list[Row]]", connection: Connection | None) -> None:
        """Let a statement whose caller is gone come to its end by itself, and keep its connection.

        To cancel it would have a connection opened to ask the server for that, one for each late statement
        of a server that is late already. Only what is still there much later is given up.
        """
        prompt = len(self._late) < self._size
        self._late.add(work)
        give_up = work.cancel if connection is None else connection.close
        timer = asyncio.get_running_loop().call_later(self._timeout * 2, give_up)

        def over(ended: "asyncio.Future[list[Row]]") -> None:
            timer.cancel()
            self._late.discard(ended)
            failed = ended.cancelled() or ended.exception() is not None
            if connection is not None:
                if failed:
                    connection.close()
                else:
                    self._keep(connection)
            if not prompt:
                self._semaphore.release()

        work.add_done_callback(over)
        if prompt:
            self._semaphore.release()

    async def _run(
        self, statement: str, arguments: Arguments, deadline: float, broken: int, pause: float
    ) -> list[Row]:
        """Try until the statement was run; `broken` is how many connections it has lost already.

        `pause`, in seconds, comes before the first try.
        """
        loop = asyncio.get_running_loop()
        if pause:
            await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 - jitter
        pause = _PAUSE
        while True:
            connection = self._take()
            fresh = connection is None
            try:
                if connection is None:
                    connection = await self._connect()
                rows = await connection.execute(statement, arguments)
            except _BROKEN as error:
                reason = error
                self._take_back(connection, error)
                crowded = connection is None and any(words in str(error) for words in _CROWDED)
                if not crowded and not isinstance(error, _AGAIN):
                    broken += 1
                    # Who is not let in twice, or loses three connections, asks no further.
                    if fresh and broken > (1 if connection is None else 2):
                        raise StoreUnavailable from error
                    if broken == 1:
                        continue
            except BaseException as error:
                self._take_back(connection, error)
                raise
            else:
                self._keep(connection)
                return rows
            if loop.time() + pause > deadline:
                raise StoreUnavailable from reason
            await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 - jitter
            pause = min(pause * 2, 0.5)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    def _take_back(self, connection: Connection | None, failure: BaseException) -> None:
        """Keep a connection that its statement left whole."""
        broken = isinstance(failure, _BROKEN) and not isinstance(failure, _AGAIN)
        if connection is not None:
            if isinstance(failure, psycopg.Error) and not broken:
                self._keep(connection)
            else:
                connection.close()
        if broken:
            # The others in the pool broke for the same reason, most likely.
            self._drop_idle()

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
        return await Connection.open(url, timeout=self._timeout, prepare=self._prepare)

    def _keep(self, connection: Connection) -> None:
        # Late statements have connections beyond the size, for as long as they last.
        if len(self._idle) < self._size and not connection.closed:
            self._idle.append(connection)
        else:
            connection.close()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def close(self) -> None:
        """Close the connections; what is still under way is given up."""
        for work in list(self._late):
            work.cancel()
        if self._late:
            await asyncio.wait(self._late, timeout=self._timeout)
        self._drop_idle()


async def _done_by(work: "asyncio.Future[list[Row]]", deadline: float) -> bool:
    """Wait until the work is done, or the event loop's time is `deadline`; tell which.

    `asyncio.wait` does the same for any number of them, at several times the price.
    """
    if work.done():
        return True
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_at(deadline, wake)
    work.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        work.remove_done_callback(wake)
    return work.done()
