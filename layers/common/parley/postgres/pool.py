"""A bounded pool of Postgres connections that replaces a broken connection without failing the statement."""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, TypeVar

from parley.domain.errors import StoreUnavailable
from parley.postgres.batch import Arguments
from parley.postgres.connection import Connection, DeadlineExceeded
from parley.postgres.errors import AGAIN, BROKEN, CROWDED, POOLER_CROWDED
from parley.postgres.opener import Opener, UrlSource
from parley.postgres.prepared import Row
from parley.postgres.transaction import DecisionFailed, Transaction
from parley.postgres.turn import Turn
from parley.postgres.waits import done_by, or_unavailable
from parley.support.logs import logger
from parley.support.semaphore import FastSemaphore, KeyedQueues

_logger = logger("database")

# Of the transactions that wait for one lock, one has it, and one gets it from the server at once.
_OF_A_QUEUE = 2

T = TypeVar("T")
# Begins a statement or a transaction on a connection, with a deadline in the event loop's time.
_Work = Callable[[Connection, float], asyncio.Future[T]]

# If a deadline is noticed this late, in seconds, the process was frozen or starved, not the database slow.
_AWAY = 0.25
# Seconds before the first repetition after a rollback or a full server; doubled for each further one.
_PAUSE = 0.02


class Pool:
    """Up to `size` connections in autocommit mode. Each runs one statement or transaction at a time.

    Every one of them must be repeatable: if a connection breaks while a statement runs, nobody knows whether
    the statement took effect, and the pool runs it again. The same goes for a transaction, as a whole.
    """

    def __init__(self, url: "str | UrlSource", *, size: int, timeout: float, prepare: bool = False) -> None:
        """`url` may be a function that the pool calls for each new connection. `timeout` is in seconds.

        `prepare` has the server keep plans: half its work, but RDS Proxy or PgBouncer pins the connection.
        """
        self._opener = Opener(url, timeout=timeout, prepare=prepare)
        self._timeout = timeout
        self._idle: list[Connection] = []
        self._size = size
        self._semaphore = FastSemaphore(size)
        self._queues = KeyedQueues(_OF_A_QUEUE)
        self._late: set[asyncio.Future[Any]] = set()

    async def run(self, statement: str, arguments: Arguments = ()) -> list[Row]:
        """Run one statement and return its rows, within the timeout.

        Raises `StoreUnavailable` if the server is unreachable, too slow or full; else psycopg's errors.
        """
        return await self._in_time(
            lambda connection, deadline: connection.execute(statement, arguments, deadline)
        )

    async def transact(self, transaction: Transaction[T], *, queue: str) -> T:
        """Run a transaction and return its result, within the timeout.

        Transactions of one `queue` wait for the same lock. All but two of them wait here, since each would
        have a connection that others need. A caller that does not get the result, because of the
        timeout or a cancellation, has the transaction undone, unless it was being committed already. Raises
        as `run`, and what `transaction.decide` raises.
        """
        try:
            return await self._in_time(
                lambda connection, deadline: connection.transact(transaction, deadline), queue
            )
        except DecisionFailed as failed:
            raise failed.error from None
        except (StoreUnavailable, asyncio.CancelledError):
            transaction.withdrawn = True
            raise

    async def _in_time(self, work: _Work[T], queue: str | None = None) -> T:
        deadline = asyncio.get_running_loop().time() + self._timeout
        turn = None if queue is None else Turn(self._queues, queue)
        try:
            if turn is not None:
                await turn.begin(deadline)
            return await self._within(deadline, work, turn)
        except StoreUnavailable as error:
            # The driver's message may quote data; the class of its error does not.
            _logger.warning("database_unavailable", extra={"error": type(error.__cause__ or error).__name__})
            raise
        finally:
            # Work that was left behind goes on under its turn, and ends it.
            if turn is not None and not turn.left_behind:
                turn.end()

    async def _within(self, deadline: float, work: _Work[T], turn: Turn | None) -> T:
        loop = asyncio.get_running_loop()
        if not self._semaphore.try_acquire():
            await or_unavailable(self._semaphore.wait(deadline))
        broken, pause = 0, 0.0
        if (connection := self._take()) is not None:
            # The first try on an idle connection needs no task. Usually it is the only try.
            try:
                result = await self._execute(connection, work, deadline, turn)
            except StoreUnavailable:
                raise
            except Exception as error:
                self._take_back(connection, error)
                if not isinstance(error, BROKEN):
                    self._semaphore.release()
                    raise
                if isinstance(error, AGAIN):
                    pause = _PAUSE
                else:
                    broken = 1
            else:
                self._keep(connection)
                self._semaphore.release()
                return result
        begun = loop.time()
        task = loop.create_task(self._repeat(work, deadline, broken, pause))
        await self._done(task, begun, deadline, turn)
        self._semaphore.release()
        return task.result()

    async def _execute(self, connection: Connection, work: _Work[T], deadline: float, turn: Turn | None) -> T:
        begun = asyncio.get_running_loop().time()
        try:
            return await work(connection, deadline)
        except DeadlineExceeded:
            rest: asyncio.Future[T] = connection.outcome_after_deadline()
        except asyncio.CancelledError:
            self._leave_behind(connection.outcome_after_deadline(), turn, connection)
            raise
        await self._done(rest, begun, deadline, turn, connection)
        return rest.result()

    async def _done(
        self,
        work: "asyncio.Future[Any]",
        begun: float,
        deadline: float,
        turn: Turn | None,
        connection: Connection | None = None,
    ) -> None:
        """Wait until `work` is done. Raises `StoreUnavailable` at `deadline`, in the event loop's time.

        After a timeout or a cancellation, `work` continues without its caller and releases the semaphore
        itself. `connection` is the connection that runs `work`; None if `work` manages its own connection.
        """
        loop = asyncio.get_running_loop()
        try:
            done = await done_by(work, deadline)
            if not done and loop.time() - deadline > _AWAY:
                # While the process was frozen, the result may have arrived in the socket: look once more.
                done = await done_by(work, loop.time() + _AWAY)
        except asyncio.CancelledError:
            self._leave_behind(work, turn, connection)
            raise
        if not done:
            self._leave_behind(work, turn, connection)
            if loop.time() - begun > self._timeout / 2:
                # A silent connection makes the idle ones suspect. A late start on a connection does not.
                self._drop_idle()
            raise StoreUnavailable from TimeoutError()

    def _leave_behind(
        self, work: "asyncio.Future[Any]", turn: Turn | None, connection: Connection | None
    ) -> None:
        """Let work without a caller finish by itself, and keep its connection afterwards.

        Cancelling it would open another connection to a slow server. It is given up after twice the timeout.
        """
        # At most `size` of them release their permits now, which bounds the connections in use.
        release_now = len(self._late) < self._size
        self._late.add(work)
        if turn is not None:
            turn.left_behind = True
        give_up = work.cancel if connection is None else connection.close
        timer = asyncio.get_running_loop().call_later(self._timeout * 2, give_up)

        def over(ended: "asyncio.Future[Any]") -> None:
            timer.cancel()
            self._late.discard(ended)
            failed = ended.cancelled() or ended.exception() is not None
            if connection is not None:
                if failed:
                    connection.close()
                else:
                    self._keep(connection)
            if turn is not None:
                turn.end()
            if not release_now:
                self._semaphore.release()

        work.add_done_callback(over)
        if release_now:
            self._semaphore.release()

    async def _repeat(self, work: _Work[T], deadline: float, broken: int, pause: float) -> T:
        """Repeat the work until it succeeds. Raises `StoreUnavailable`, at `deadline` at the latest.

        It has lost `broken` connections before. `pause`, in seconds, comes before the first try.
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
                    connection = await self._opener.open()
                result = await work(connection, math.inf)
            except BROKEN as error:
                reason = error
                self._take_back(connection, error)
                signs = CROWDED + POOLER_CROWDED if connection is None else POOLER_CROWDED
                crowded = any(words in str(error) for words in signs)
                if not crowded and not isinstance(error, AGAIN):
                    broken += 1
                    # Idle connections may all be stale, so only a new one's failure proves an outage: the
                    # second loss if it could not be opened, the third if it broke.
                    if fresh and broken > (1 if connection is None else 2):
                        raise StoreUnavailable from error
                    if broken == 1:
                        continue
            except BaseException as error:
                self._take_back(connection, error)
                raise
            else:
                self._keep(connection)
                return result
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
        """Keep a connection that `failure` left intact; close any other."""
        broken = isinstance(failure, BROKEN) and not isinstance(failure, AGAIN)
        if connection is not None:
            # What is no `Exception` came in the middle of the work.
            if isinstance(failure, Exception) and not broken:
                self._keep(connection)
            else:
                connection.close()
        if broken:
            # The idle connections probably broke for the same reason, such as a restart of the server.
            self._drop_idle()

    def _keep(self, connection: Connection) -> None:
        # Late statements use connections beyond `size`; once those end, the surplus is closed.
        if len(self._idle) < self._size and not connection.closed:
            self._idle.append(connection)
        else:
            connection.close()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def close(self) -> None:
        """Close every connection, and give up the statements that still run."""
        for work in list(self._late):
            work.cancel()
        if self._late:
            await asyncio.wait(self._late, timeout=self._timeout)
        self._drop_idle()
