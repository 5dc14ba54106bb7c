"""Fetches an issuer's public keys (JWK Set, RFC 7517), with limits on time, size and frequency."""

import asyncio
import json
import threading
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from parley.settings import SettingsError
from parley.support.logs import logger

_logger = logger("jwks")

# Seconds. A key that the issuer removes is refused after `_FRESH`: its next token begins the fetch.
# If the issuer's host does not answer, all keys are refused after `_KEPT`. `_PAUSE` separates two fetches;
# `_TIMEOUT` limits one.
_FRESH = 3600.0
_KEPT = 86_400.0
_PAUSE = 10.0
_TIMEOUT = 3.0
_BYTES = 262_144
_RSA_BITS = 2048


class Jwks:
    """The issuer's keys at `url`, by their `kid`.

    Tokens with unknown kids cause one fetch in ten seconds at most, however many arrive. One caller fetches,
    and the others wait for its result. Raises `SettingsError` unless `url` is https or on loopback.
    """

    def __init__(self, url: str) -> None:
        host = urlsplit(url)
        if host.scheme != "https" and (host.scheme, host.hostname) not in _LOOPBACK:
            raise SettingsError("JWT_JWKS_URL, or JWT_ISSUER, must be an https URL.")
        self._url = url
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._asked = float("-inf")
        self._fetching: Future[None] | None = None
        # A thread of its own: those of the event loop open connections to Postgres, which tokens of unknown
        # keys would hold up while the issuer's host is slow.
        self._thread = ThreadPoolExecutor(1, "jwks")

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this `kid`, or None. Never raises, and takes a few seconds at most.

        A known key is returned at once: its renewal is not waited for.
        """
        age = _age(self._fetched)
        if kid in self._keys and age < _FRESH:
            return self._keys[kid]
        fetching = self._refresh()
        if fetching is not None and (kid not in self._keys or age >= _KEPT):
            # Shielded, since others wait for it too. A sandbox may run each invocation in its own event loop.
            await asyncio.shield(asyncio.wrap_future(fetching))
        return self._keys.get(kid) if _age(self._fetched) < _KEPT else None

    def _refresh(self) -> Future[None] | None:
        """Begin a fetch, and return it, or the one that runs; None if the last one was a moment ago."""
        with self._lock:
            if self._fetching is not None and not self._fetching.done():
                return self._fetching
            if _age(self._asked) < _PAUSE:
                return None
            self._asked = time.time()
            self._fetching = self._thread.submit(self._renew)
            return self._fetching

    def _renew(self) -> None:
        try:
            keys = _parse(_fetch(self._url))
        except Exception as error:
            # Any error of the fetch leaves the token unverified. Such a token is refused, and the service
            # is not at fault.
            _logger.warning("jwks_unavailable", extra={"error": type(error).__name__})
            return
        self._keys = keys
        self._fetched = time.time()


_LOOPBACK = {("http", name) for name in ("127.0.0.1", "localhost", "::1")}


def _age(moment: float) -> float:
    """Return the seconds since `moment`, by the wall clock: a frozen sandbox's monotonic clock stops."""
    return abs(time.time() - moment)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the keys come only from the URL in the settings."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _fetch(url: str) -> bytes:
    until = time.monotonic() + _TIMEOUT
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310 - https
    body = b""
    with _opener.open(request, timeout=_TIMEOUT) as response:
        # Read in pieces, because the timeout limits only one read. A host that sends one byte a second would
        # take hours.
        while piece := response.read1(65_536):
            body += piece
            if len(body) > _BYTES or time.monotonic() > until:
                raise TimeoutError
    return body


def _parse(body: bytes) -> dict[str, jwt.PyJWK]:
    keys: dict[str, jwt.PyJWK] = {}
    for item in json.loads(body)["keys"]:
        kid = item.get("kid")
        if not isinstance(kid, str) or item.get("use", "sig") != "sig":
            continue
        algorithm = {"RSA": "RS256", "EC": "ES256"}.get(item.get("kty"))
        if algorithm is None or item.get("alg", algorithm) != algorithm:
            continue
        try:
            key = jwt.PyJWK(item, algorithm)
        except jwt.PyJWTError:
            continue
        if _strong(key.key):
            keys[kid] = key
    return keys


def _strong(key: object) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size >= _RSA_BITS
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
