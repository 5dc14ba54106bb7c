"""Verifies bearer tokens of one issuer, signed with RS256 or ES256 (RFC 7519, RFC 8725)."""

from typing import Any

import jwt

from parley.auth.jwks import Jwks
from parley.domain.errors import Unauthorized
from parley.domain.ids import is_subject
from parley.settings import Settings, SettingsError
from parley.support.logs import logger

_logger = logger("jwt")
_LEEWAY_SECONDS = 30
_LONGEST = 16_384


class JwtVerifier:
    """Verifies access tokens of `issuer` for `audience`, or for the Cognito client `client_id`.

    Cognito's access tokens have no `aud`: `client_id` names the client, and `token_use` is `access`. Its ID
    tokens, whose `token_use` is `id`, tell a page who signed in and are refused: they open nothing. Raises
    `SettingsError` if the issuer is missing, or both the audience and the client.
    """

    def __init__(self, *, issuer: str, audience: str = "", client_id: str = "", jwks_url: str = "") -> None:
        if not issuer:
            raise SettingsError("AUTH_MODE=jwt needs JWT_ISSUER.")
        if not audience and not client_id:
            raise SettingsError("AUTH_MODE=jwt needs JWT_AUDIENCE or JWT_CLIENT_ID.")
        self._issuer = issuer
        self._audience = audience
        self._client_id = client_id
        self._jwks = Jwks(jwks_url or f"{issuer.rstrip('/')}/.well-known/jwks.json")

    @classmethod
    def from_settings(cls, settings: Settings) -> "JwtVerifier":
        """Return the verifier for `settings`. Raises `SettingsError`."""
        return cls(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            client_id=settings.jwt_client_id,
            jwks_url=settings.jwt_jwks_url,
        )

    async def verify(self, token: str) -> str:
        """Return the subject of a valid token. Raises `Unauthorized`, whose message names no reason."""
        try:
            return await self._verify(token)
        except Exception as error:
            # A token on which a parser fails is not valid either. The log has only the error's type.
            _logger.info("token_refused", extra={"error": type(error).__name__})
            raise Unauthorized("The bearer token is not valid.") from None

    async def _verify(self, token: str) -> str:
        if len(token) > _LONGEST:
            raise jwt.DecodeError
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        # `crit` lists extensions that must be understood (RFC 7515, 4.1.11). None is understood here.
        if header.get("alg") not in ("RS256", "ES256") or not isinstance(kid, str) or "crit" in header:
            raise jwt.InvalidAlgorithmError
        key = await self._jwks.key(kid)
        # The key decides the algorithm, not the token (RFC 8725, 3.1).
        if key is None or key.algorithm_name != header["alg"]:
            raise jwt.InvalidKeyError
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer,
            audience=self._audience or None,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "sub"], "verify_aud": bool(self._audience)},
        )
        if not self._is_access(claims):
            raise jwt.InvalidAudienceError
        subject = claims["sub"]
        if not isinstance(subject, str) or not is_subject(subject):
            raise jwt.MissingRequiredClaimError("sub")
        return subject

    def _is_access(self, claims: dict[str, Any]) -> bool:
        """Tell whether Cognito's own claims make this an access token for the client.

        Other issuers have no `token_use`: there `audience` alone tells an access token from an ID token.
        """
        if not self._client_id:
            return bool(claims.get("token_use", "access") == "access")
        return bool(claims.get("token_use") == "access" and claims.get("client_id") == self._client_id)
