"""Connects to Postgres in a thread.

libpq closes and opens sockets while it connects, and an event loop that watched them would not learn of it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

import psycopg

from parley.postgres.prepared import Row


async def connect(url: str, timeout: float) -> psycopg.Connection[Row]:
    """Return a connection in autocommit mode, with libpq's timeouts derived from `timeout` in seconds.

    Raises `psycopg.OperationalError`.
    """
    connecting = _in_a_thread(lambda: _connect(url, timeout))
    try:
        return await asyncio.wrap_future(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close)
        raise


async def plain_connection(url: str) -> "psycopg.AsyncConnection[Row]":
    """Return a connection of psycopg's own, not in autocommit mode, for work that is done once.

    It prepares no statement, whose name a pooler would lead to another session. Raises psycopg's errors.
    """
    return await psycopg.AsyncConnection.connect(url, connect_timeout=10, prepare_threshold=None)


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
    return psycopg.connect(
        url,
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=max(2, round(timeout)),
        # In milliseconds. Data unacknowledged for 40 % of the timeout is lost, which leaves time to repeat
        # the statement on a new connection.
        tcp_user_timeout=round(timeout * 400),
        application_name="parley",
    )


def _close(connecting: "Future[psycopg.Connection[Row]]") -> None:
    """Close a connection whose `open` was cancelled while it connected."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
