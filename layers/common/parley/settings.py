"""Reads the settings once from the environment.

`python -m local.readme` makes the tables of README.md and docs/configuration.md from this file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import parse_qs, urlsplit

# Numbers that nothing works with at zero: a pool of none, a wait of no time, a batch of no rows.
_ABOVE_ZERO = {
    "DATABASE_POOL_SIZE", "DATABASE_TIMEOUT", "VALKEY_TIMEOUT_MS", "REPLY_CHARACTERS", "SESSION_SECONDS",
    "PROMPT_CHARACTERS", "BODY_BYTES", "HEARTBEAT_SECONDS", "LEASE_SECONDS", "SESSION_LEASE_SECONDS",
    "PULSE_SECONDS", "PROVIDER_FIRST_TOKEN_SECONDS", "PROVIDER_GAP_SECONDS", "PROVIDER_TOTAL_SECONDS",
    "PROVIDER_ATTEMPTS", "PURGE_BATCH",
}  # fmt: skip
# Postgres's integer, and far above what makes sense.
_HIGHEST = 2**31 - 1
_SCHEMES = {
    "DATABASE_URL": ("postgresql", "postgres"),
    "VALKEY_URL": ("redis", "rediss", "unix"),
    "OPENAI_BASE_URL": ("https", "http"),
    "ANTHROPIC_BASE_URL": ("https", "http"),
    "XAI_BASE_URL": ("https", "http"),
}


class SettingsError(ValueError):
    """A setting is missing or makes no sense. The message names it and says what would make sense."""


def setting(name: str, default: Any, about: str, *, secret: bool = False, formerly: str = "") -> Any:
    """Declare a setting: its environment variable, its default and its purpose.

    `formerly` is the variable's name of the release before, which is read where `name` is not set.
    """
    metadata = {"name": name, "about": about, "secret": secret, "formerly": formerly}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, in seconds unless the name says otherwise."""

    database_url: str = setting("DATABASE_URL", "", "Postgres, as a libpq URL", secret=True)
    database_pool_size: int = setting("DATABASE_POOL_SIZE", 4, "connections one process may hold")
    database_timeout: float = setting(
        "DATABASE_TIMEOUT", 5.0, "longest wait for one statement, or for a start's transaction"
    )
    database_prepare: bool = setting(
        "DATABASE_PREPARE", True, "keeps plans of statements in Postgres; false behind RDS Proxy or PgBouncer"
    )
    database_secret_arn: str = setting(
        "DATABASE_SECRET_ARN",
        "",
        "secret with the user name and password for DATABASE_URL, or with all of it",
    )
    database_iam: bool = setting(
        "DATABASE_IAM", False, "logs in to RDS as the function's role, in place of a password"
    )
    valkey_url: str = setting(
        "VALKEY_URL", "", "Valkey or Redis; empty: each process keeps its log in memory", secret=True
    )
    valkey_secret_arn: str = setting(
        "VALKEY_SECRET_ARN", "", "secret with the user name and password for VALKEY_URL"
    )
    valkey_timeout_ms: int = setting("VALKEY_TIMEOUT_MS", 250, "longest wait for Valkey, milliseconds")
    valkey_prefix: str = setting("VALKEY_PREFIX", "parley", "first part of every key in Valkey")
    key_secret: str = setting(
        "KEY_SECRET",
        "",
        "secret of generation keys, session ids and the log's MACs, 32 characters up",
        secret=True,
    )
    key_secret_previous: str = setting(
        "KEY_SECRET_PREVIOUS",
        "",
        "another secret whose session ids and MACs are valid, while KEY_SECRET is rotated",
        secret=True,
    )
    keys_secret_arn: str = setting(
        "KEYS_SECRET_ARN", "", "secret with values for the secret settings, by name"
    )

    auth_mode: str = setting("AUTH_MODE", "jwt", "`jwt`, or `trusted` to believe userId")
    allow_trusted: bool = setting(
        "ALLOW_TRUSTED",
        False,
        "lets AUTH_MODE=trusted start: only a laptop, or an authenticating gateway, reaches this server",
        formerly="ALLOW_TRUSTED_IN_LAMBDA",
    )
    jwt_issuer: str = setting("JWT_ISSUER", "", "issuer of the tokens, as their iss says")
    jwt_audience: str = setting("JWT_AUDIENCE", "", "the aud that tokens must have")
    jwt_client_id: str = setting(
        "JWT_CLIENT_ID", "", "for Cognito: the client_id that access tokens must have"
    )
    jwt_jwks_url: str = setting("JWT_JWKS_URL", "", "the issuer's keys; empty is its /.well-known/jwks.json")
    allowed_origins: tuple[str, ...] = setting(
        "ALLOWED_ORIGINS", (), "origins that get CORS headers, by commas"
    )

    openai_api_key: str = setting("OPENAI_API_KEY", "", "key of OpenAI", secret=True)
    openai_base_url: str = setting(
        "OPENAI_BASE_URL", "https://api.openai.com/v1", "OpenAI, or a compatible server"
    )
    anthropic_api_key: str = setting("ANTHROPIC_API_KEY", "", "key of Anthropic", secret=True)
    anthropic_base_url: str = setting("ANTHROPIC_BASE_URL", "https://api.anthropic.com", "Anthropic")
    xai_api_key: str = setting("XAI_API_KEY", "", "key of xAI", secret=True)
    xai_base_url: str = setting("XAI_BASE_URL", "https://api.x.ai/v1", "xAI")
    demo_model: bool = setting("DEMO_MODEL", False, "offers the built-in demo model, which needs no key")
    demo_tokens_per_second: float = setting(
        "DEMO_TOKENS_PER_SECOND", 20.0, "speed of the demo model; 0 is full speed"
    )

    share_context_free: bool = setting(
        "SHARE_CONTEXT_FREE", False, "lets users share replies to prompts without context"
    )
    cache_seconds: int = setting("CACHE_SECONDS", 3600, "how long a finished reply answers equal questions")
    cache_replay_tokens_per_second: float = setting(
        "CACHE_REPLAY_TOKENS_PER_SECOND", 0.0, "paces cache hits, not resumes; 0 sends them at once"
    )
    reply_characters: int = setting("REPLY_CHARACTERS", 1_000_000, "longest reply, code points")
    session_seconds: int = setting("SESSION_SECONDS", 600, "how long an opened session waits for its reader")
    session_readers: int = setting(
        "SESSION_READERS", 8, "streams of one session at once; a newer one lets the oldest go; 0 is no limit"
    )
    prompt_characters: int = setting("PROMPT_CHARACTERS", 32_000, "longest prompt, code points")
    body_bytes: int = setting("BODY_BYTES", 262_144, "largest request body, bytes")

    heartbeat_seconds: float = setting(
        "HEARTBEAT_SECONDS", 10.0, "silence after which a stream gets a comment"
    )
    flush_ms: int = setting("FLUSH_MS", 25, "how long the writer gathers text for the log, milliseconds")
    lease_seconds: float = setting("LEASE_SECONDS", 5.0, "a writer silent for so long is taken for dead")
    session_lease_seconds: float = setting(
        "SESSION_LEASE_SECONDS",
        20.0,
        "how long a process's lease on a session in Postgres lasts unless renewed",
    )
    pulse_seconds: float = setting(
        "PULSE_SECONDS", 5.0, "how often a process renews the leases of its sessions"
    )
    provider_first_token_seconds: float = setting(
        "PROVIDER_FIRST_TOKEN_SECONDS", 300.0, "longest silence of a provider before a reply's first text"
    )
    provider_gap_seconds: float = setting(
        "PROVIDER_GAP_SECONDS", 60.0, "longest silence of a provider after it"
    )
    provider_total_seconds: float = setting("PROVIDER_TOTAL_SECONDS", 600.0, "longest time for one reply")
    provider_attempts: int = setting(
        "PROVIDER_ATTEMPTS", 3, "tries before the first token; 1 behind a gateway that tries again itself"
    )
    provider_backoff_seconds: float = setting(
        "PROVIDER_BACKOFF_SECONDS", 0.5, "wait before the second try; doubles"
    )
    deadline_margin_seconds: float = setting(
        "DEADLINE_MARGIN_SECONDS", 8.0, "a reply ends as truncated so long before Lambda's deadline"
    )
    deadline_seconds: float = setting(
        "DEADLINE_SECONDS", 0.0, "deadline of a stream where Lambda sets none; 0 is none"
    )

    retention_days: int = setting(
        "RETENTION_DAYS", 0, "purge deletes chats idle for so many days; 0 keeps them"
    )
    purge_batch: int = setting("PURGE_BATCH", 1000, "rows the purge deletes in one statement")
    log_level: str = setting("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment. Raises `SettingsError`, which names the first senseless variable."""
        env = os.environ if env is None else env
        values: dict[str, Any] = {}
        for item in fields(cls):
            name, formerly = item.metadata["name"], item.metadata["formerly"]
            if formerly and not env.get(name):
                name = formerly
            raw = env.get(name)
            if raw is not None and raw != "":
                values[item.name] = _read(name, raw, item.type)
        settings = cls(**values)
        settings._check(in_lambda="AWS_LAMBDA_FUNCTION_NAME" in env)
        return settings

    def _check(self, *, in_lambda: bool) -> None:
        if self.auth_mode not in ("jwt", "trusted"):
            raise SettingsError("AUTH_MODE must be jwt or trusted.")
        if self.auth_mode == "trusted" and not self.allow_trusted:
            raise SettingsError("AUTH_MODE=trusted believes any userId, so it also needs ALLOW_TRUSTED=true.")
        if self.auth_mode == "jwt" and in_lambda and not self.jwt_issuer:
            raise SettingsError("AUTH_MODE=jwt needs JWT_ISSUER.")
        if self.jwt_issuer and not self.jwt_audience and not self.jwt_client_id:
            raise SettingsError("JWT_ISSUER needs JWT_AUDIENCE or JWT_CLIENT_ID.")
        if self.database_iam and self.database_secret_arn:
            raise SettingsError("DATABASE_IAM and DATABASE_SECRET_ARN exclude each other.")
        authorities = parse_qs(urlsplit(self.database_url).query).get("sslrootcert", ["system"])[0]
        if authorities != "system" and not Path(authorities).is_file():
            # Otherwise every connection fails, and the database seems to be away.
            raise SettingsError("DATABASE_URL must have an sslrootcert that is a file here, or system.")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise SettingsError("LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR.")
        self.check_key_secrets()
        self.check_provider_urls()
        for item in fields(self):
            if schemes := _SCHEMES.get(item.metadata["name"]):
                _check_url(item.metadata["name"], getattr(self, item.name), schemes)
        # A lease must outlast a renewal that comes late.
        if self.pulse_seconds * 2 > self.session_lease_seconds:
            raise SettingsError("SESSION_LEASE_SECONDS must be at least twice PULSE_SECONDS.")

    def check_key_secrets(self) -> None:
        """Check what a secret may bring: what keys are made of, and Valkey's URL. Raises `SettingsError`."""
        for name, value in (
            ("KEY_SECRET", self.key_secret),
            ("KEY_SECRET_PREVIOUS", self.key_secret_previous),
        ):
            if value and len(value) < 32:
                raise SettingsError(f"{name} must have at least 32 characters.")
        # The secret of the keys may hold it too.
        _check_url("VALKEY_URL", self.valkey_url, _SCHEMES["VALKEY_URL"])

    def check_provider_urls(self) -> None:
        """Check that no provider's key leaves a private network in plain text. Raises `SettingsError`."""
        for provider in ("openai", "anthropic", "xai"):
            url, key = getattr(self, f"{provider}_base_url"), getattr(self, f"{provider}_api_key")
            if key.strip() and not _is_safe(url):
                name = f"{provider.upper()}_BASE_URL"
                raise SettingsError(f"{name} must be an https URL, since a key is sent to it.")


def _check_url(name: str, value: str, schemes: tuple[str, ...]) -> None:
    """Refuse what is no URL with a host, without quoting it: it may hold a password."""
    if not value:
        return
    try:
        parts = urlsplit(value.strip())
        # libpq takes several hosts, each with a port of its own, and a host among its parameters.
        fits = parts.scheme in schemes and (
            schemes[0] == "postgresql" or parts.scheme == "unix" or bool(parts.hostname and parts.port != 0)
        )
    except ValueError:
        fits = False
    if not fits:
        shown = " or ".join(f"{scheme}://" for scheme in schemes)
        raise SettingsError(
            f"{name} must be a URL that begins with {shown}, with a host and a port that can be."
        )


# Names that the Internet does not have: RFC 6761, RFC 6762 (and Kubernetes's cluster.local), RFC 8375, and
# ICANN's reservation of `internal`.
_PRIVATE_NAMES = (".localhost", ".local", ".home.arpa", ".internal")


def _is_safe(url: str) -> bool:
    """Tell whether a key may be sent to `url`: by TLS, or within this machine or a private network.

    Model servers and gateways of one's own speak plain HTTP, mostly beside Parley: in a LAN, or as a
    container with a name of one label. Whoever reads along there is inside already; on the Internet anybody
    on the way can.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return True  # no URL: nothing is sent, and the first request says so
    if parts.scheme.lower() != "http":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        # A label that begins with a digit may be an address in another form: 134744072 is 8.8.8.8.
        return host[:1].isalpha() and ("." not in host or host.endswith(_PRIVATE_NAMES))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return not (mapped or address).is_global


def _read(name: str, raw: str, kind: object) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[raw.lower()]
        if kind is int or kind is float:
            number = int(raw) if kind is int else float(raw)
            # NaN fails this comparison too.
            if not 0 <= number <= _HIGHEST or (number == 0 and name in _ABOVE_ZERO):
                raise ValueError
            return number
        if get_origin(kind) is tuple and get_args(kind):
            return tuple(part.strip() for part in raw.split(",") if part.strip())
    except (KeyError, ValueError):
        least = "above 0" if name in _ABOVE_ZERO else "from 0"
        expected = "true or false" if kind is bool else f"a{' whole' * (kind is int)} number {least}"
        raise SettingsError(f"{name} must be {expected}.") from None
    return raw
