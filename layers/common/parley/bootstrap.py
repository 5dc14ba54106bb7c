"""Wires the parts together; no other module does."""

import asyncio
import functools
from collections.abc import Awaitable, Callable

from parley.aws.rds import with_token
from parley.aws.secrets import Secrets
from parley.domain.ids import SessionIds, new_id
from parley.domain.ports import ChatModels, Log
from parley.memory.log import MemoryLog
from parley.postgres.opener import UrlSource
from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from parley.providers.key_rotation import RotatingModels
from parley.providers.registry import ConfiguredModels
from parley.services import Services, Verifier
from parley.settings import Settings, SettingsError
from parley.streaming.generation_keys import GenerationKeys
from parley.streaming.model_call import CallLimits
from parley.streaming.session_runner import Policy, SessionRunner
from parley.support import logs
from parley.usecases.cached_replies import CachedReplies
from parley.usecases.health import HealthCheck


def build(settings: Settings) -> Services:
    """Make the services that the settings ask for. Raises `SettingsError`."""
    if not settings.database_url and not settings.database_secret_arn:
        raise SettingsError("DATABASE_URL is not set.")
    secrets = Secrets(settings)
    settings = secrets.keys()
    if not settings.key_secret:
        raise SettingsError("KEY_SECRET is not set.")
    owner = new_id()
    store = PostgresStore(
        Pool(
            _database(settings, secrets),
            size=settings.database_pool_size,
            timeout=settings.database_timeout,
            prepare=settings.database_prepare,
        ),
        owner=owner,
        session_seconds=settings.session_seconds,
        create_users=settings.auth_mode == "jwt",
    )
    log = _log(settings, secrets)
    models = _models(settings, secrets)
    keys = GenerationKeys(
        models, settings.key_secret.encode(), share_context_free=settings.share_context_free
    )
    runner = SessionRunner(store, log, models, keys, _policy(settings))
    return Services(
        settings,
        store,
        log,
        models,
        runner,
        CachedReplies(log, keys),
        SessionIds(settings.key_secret, settings.key_secret_previous),
        HealthCheck(store, log),
        _verifier(settings),
    )


def _database(settings: Settings, secrets: Secrets) -> str | UrlSource:
    if settings.database_iam:
        return lambda _: asyncio.to_thread(with_token, settings.database_url)
    return secrets.database_url if settings.database_secret_arn else settings.database_url


def _models(settings: Settings, secrets: Secrets) -> ChatModels:
    if not settings.keys_secret_arn:
        return ConfiguredModels(settings)
    return RotatingModels(settings, lambda refused: asyncio.to_thread(secrets.keys, refused))


class _LateVerifier:
    """Makes the verifier at the first token, because cryptography takes a while to import."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._verifier: Verifier | None = None

    async def verify(self, token: str) -> str:
        if self._verifier is None:
            from parley.auth.jwt import JwtVerifier  # noqa: PLC0415

            self._verifier = JwtVerifier.from_settings(self._settings)
        return await self._verifier.verify(token)


def _verifier(settings: Settings) -> Verifier | None:
    """Return the verifier of tokens; without an issuer it is None, and no token is accepted."""
    return _LateVerifier(settings) if settings.auth_mode == "jwt" and settings.jwt_issuer else None


def _log(settings: Settings, secrets: Secrets) -> Log:
    if not settings.valkey_url:
        return MemoryLog(lease_seconds=settings.lease_seconds, cache_seconds=settings.cache_seconds)
    from parley.valkey.log import ValkeyLog  # noqa: PLC0415 - redis takes a while to import
    from parley.valkey.macs import Macs  # noqa: PLC0415

    return ValkeyLog(
        secrets.valkey_url(),
        macs=Macs(settings.key_secret, settings.key_secret_previous),
        prefix=settings.valkey_prefix,
        timeout=settings.valkey_timeout_ms / 1000,
        lease_seconds=settings.lease_seconds,
        cache_seconds=settings.cache_seconds,
        renew=_renewed(secrets) if settings.valkey_secret_arn else None,
    )


def _renewed(secrets: Secrets) -> Callable[[str], Awaitable[str]]:
    return lambda refused: asyncio.to_thread(secrets.valkey_url, refused)


def _policy(settings: Settings) -> Policy:
    return Policy(
        limits=CallLimits(
            first_token=settings.provider_first_token_seconds,
            gap=settings.provider_gap_seconds,
            total=settings.provider_total_seconds,
            attempts=settings.provider_attempts,
            backoff=settings.provider_backoff_seconds,
            flush=settings.flush_ms / 1000,
            lease=settings.lease_seconds,
            characters=settings.reply_characters,
        ),
        session_lease=settings.session_lease_seconds,
        renew_every=settings.pulse_seconds,
        readers=settings.session_readers,
    )


@functools.cache
def settings() -> Settings:
    """Return this process's settings, read once."""
    loaded = Settings.from_env()
    logs.configure(loaded.log_level)
    return loaded


@functools.cache
def services() -> Services:
    """Return this process's services, made at the first call."""
    return build(settings())
