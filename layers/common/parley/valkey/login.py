"""The user name and password of a process's connections to Valkey, and what follows a refusal."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import parse_url
from redis.credentials import CredentialProvider

from parley.support.logs import logger

_logger = logger("valkey")
_REFUSALS = ("NOAUTH", "WRONGPASS")
# Returns the URL with the current login. Its argument is a URL whose login the server refused.
Renew = Callable[[str], Awaitable[str]]


class Login(CredentialProvider):
    """The login of a URL, until the server refuses it and `renew` knows a newer one.

    `refused` says that a connection could not log in. The newest login is then fetched where no request
    waits, because that may take seconds.
    """

    def __init__(self, url: str, renew: Renew | None = None) -> None:
        self._url = url
        self._renew = renew
        self.refused = False

    @property
    def address(self) -> str:
        """The URL without a login."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the arguments of AUTH: none, the password, or the user's name and the password."""
        options = parse_url(self._url)
        password, username = options.get("password"), options.get("username")
        if not password:
            return ()
        return (username, password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the same to redis-py."""
        return self.get_credentials()

    def answered(self, code: str) -> None:
        """Note the server's error: it may be a refusal of the login."""
        self.refused = self.refused or code in _REFUSALS

    async def renew_refused(self) -> None:
        """Take the newest login if the server refused this one. Without `renew` the URL's own stays."""
        if self.refused:
            self.refused = False
            await self.renew()

    async def renew(self) -> None:
        """Take the newest login."""
        if self._renew is None:
            return
        try:
            self._url = await self._renew(self._url)
        except Exception as error:
            _logger.warning("login_not_renewed", extra={"error": type(error).__name__})
