"""Reads secrets from AWS Secrets Manager, once a process, and again after a secret was refused."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from parley.domain.errors import Unavailable
from parley.settings import Settings, SettingsError
from parley.support.logs import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.parameters import SecretsProvider

T = TypeVar("T")

_logger = logger("secrets")
# Seconds between two fetches. A wrong password must not cause a call of Secrets Manager at each request.
_REFETCH_SECONDS = 10.0


class Secrets:
    """The secrets that `settings` names by ARN. Without an ARN the settings' own values are used."""

    def __init__(self, settings: Settings, fetch: Callable[[str], str] | None = None) -> None:
        self._settings = settings
        self._fetch = fetch or SecretsManager().fetch
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._refetched: dict[str, float] = {}

    async def database_url(self, refused: str | None = None) -> str:
        """Return the database's URL with its password.

        `refused` is a URL whose password the server refused. The password was rotated then, so it is fetched
        again, unless a newer one is here. Raises `Unavailable`, `SettingsError`.
        """
        arn, url = self._settings.database_secret_arn, self._settings.database_url
        if not arn:
            return url
        return await asyncio.to_thread(self._read, arn, lambda text: _database_url(url, text), refused)

    def valkey_url(self, refused: str | None = None) -> str:
        """Return Valkey's URL, with the password of its secret where it has one.

        `refused` is a URL whose password the server refused, as in `database_url`. The first call blocks, as
        that of `keys`. Raises `Unavailable`, `SettingsError`.
        """
        arn, url = self._settings.valkey_secret_arn, self.keys().valkey_url
        if not arn:
            return url
        return self._read(arn, lambda text: _with_login(url, text, "VALKEY_SECRET_ARN"), refused)

    def password(self, arn: str, user: str) -> str:
        """Return the password of `user` in a secret in RDS's format.

        Raises `Unavailable`, `SettingsError`.
        """
        secret = self._read(arn, lambda text: _object(text, "LetInSecret"), None)
        if secret.get("username") != user or not secret.get("password"):
            raise SettingsError(f"The secret LetInSecret must have the username {user} and a password.")
        return secret["password"]

    def keys(self, refused: Settings | None = None) -> Settings:
        """Return the settings with the missing secrets filled in. Values from the environment stay.

        `refused` is the settings whose key a provider refused. The first call in a process blocks for a few
        seconds at most: nothing can be served before. Raises `Unavailable`, `SettingsError`.
        """
        arn = self._settings.keys_secret_arn
        if not arn:
            return self._settings
        return self._read(arn, lambda text: _with_keys(self._settings, text), refused)

    def _read(self, arn: str, parse: Callable[[str], T], refused: T | None) -> T:
        # A thread lock, not asyncio's: a sandbox may run each invocation in its own event loop.
        with self._lock:
            if arn in self._held:
                value = parse(self._held[arn])
                recently = time.monotonic() - self._refetched.get(arn, -_REFETCH_SECONDS) < _REFETCH_SECONDS
                # The refused value is fetched again, unless that happened a moment ago.
                if value != refused or recently:
                    return value
                self._refetched[arn] = time.monotonic()
            self._held[arn] = self._fetch(arn)
            return parse(self._held[arn])


class SecretsManager:
    """A client of Secrets Manager, made at the first fetch because that takes a while."""

    def __init__(self) -> None:
        self._provider: SecretsProvider | None = None

    def fetch(self, arn: str) -> str:
        """Return the present text of a secret. Raises `Unavailable`, `SettingsError`."""
        # Imported here because a laptop has no AWS, and boto3 takes a while to load.
        from aws_lambda_powertools.utilities.parameters import SecretsProvider  # noqa: PLC0415
        from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        if self._provider is None:
            patience = Config(
                connect_timeout=2, read_timeout=3, retries={"mode": "standard", "max_attempts": 2}
            )
            self._provider = SecretsProvider(boto_config=patience)
        try:
            value = self._provider.get(arn, force_fetch=True)
        except GetParameterError as error:
            _logger.warning("secret_unavailable", extra={"error": type(error).__name__})
            raise Unavailable("The service's keys cannot be read right now.", retry_after=2) from None
        if not isinstance(value, str) or not value:
            raise SettingsError("A secret must be text.")
        return value


def _database_url(url: str, text: str) -> str:
    """Return `url` with the login of a secret in RDS's format; any other text is the URL."""
    if not text.lstrip().startswith("{"):
        return text.strip()
    return _with_login(url, text, "DATABASE_SECRET_ARN")


def _with_login(url: str, text: str, name: str) -> str:
    """Return `url` with the user name and password of a secret in RDS's format. Raises `SettingsError`."""
    secret = _object(text, name)
    if not {"username", "password"} <= secret.keys():
        raise SettingsError(f"The secret {name} must have username and password.")
    parts = urlsplit(url)
    login = f"{quote(secret['username'], safe='')}:{quote(secret['password'], safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


def _with_keys(settings: Settings, text: str) -> Settings:
    """Return the settings with the secrets of a JSON object that they lack. Raises `SettingsError`."""
    names = {item.metadata["name"]: item.name for item in fields(Settings) if item.metadata["secret"]}
    values: dict[str, Any] = {}
    for name, value in _object(text, "KEYS_SECRET_ARN").items():
        if name not in names:
            raise SettingsError(f"The secret KEYS_SECRET_ARN holds {name}, which is no secret setting.")
        if value and not getattr(settings, names[name]):
            values[names[name]] = value
    filled = replace(settings, **values)
    filled.check_key_secrets()
    filled.check_provider_urls()
    return filled


def _object(text: str, name: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        raise SettingsError(f"The secret {name} must be a JSON object.") from None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise SettingsError(f"The secret {name} must be a JSON object of texts.")
    return value
