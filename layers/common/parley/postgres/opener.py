"""Opens connections, with a URL whose password may be renewed."""

from collections.abc import Awaitable, Callable

import psycopg

from parley.domain.errors import StoreUnavailable
from parley.postgres.connection import Connection

# Returns the database's URL. The argument is the URL whose password the server refused, None at first.
UrlSource = Callable[[str | None], Awaitable[str]]


class Opener:
    """Opens each connection of a pool. The arguments are `Pool`'s."""

    def __init__(self, url: str | UrlSource, *, timeout: float, prepare: bool) -> None:
        self._url = url
        self._timeout = timeout
        self._prepare = prepare

    async def open(self) -> Connection:
        """Open a connection; a refused password is asked for once more.

        Raises `psycopg.OperationalError`, and `StoreUnavailable` without a URL.
        """
        if isinstance(self._url, str):
            return await self._open(self._url)
        url = await self._source(self._url, None)
        try:
            return await self._open(url)
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            renewed = await self._source(self._url, url)
            if renewed == url:
                raise
        return await self._open(renewed)

    async def _source(self, source: UrlSource, refused: str | None) -> str:
        """Call the URL's source. Raises `StoreUnavailable` for any of its errors: no secret, no database."""
        try:
            return await source(refused)
        except Exception as error:
            raise StoreUnavailable from error

    async def _open(self, url: str) -> Connection:
        return await Connection.open(url, timeout=self._timeout, prepare=self._prepare)
