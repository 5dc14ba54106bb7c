"""Row 23: only a genuine, current token of the right issuer for the right client passes, and asking for the
keys never becomes a burden on their host. Real keys, and a real server for them."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from parley.auth import jwks
from parley.auth.jwt import JwtVerifier
from parley.domain.errors import Unauthorized
from parley.settings import Settings, SettingsError
from tests.client import eventually
from tests.tokens import EC, EC384, ISSUER, OTHER, RSA, WEAK, KeyServer, claims, published, token


@pytest.fixture
def server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def verifier(server: KeyServer) -> JwtVerifier:
    return JwtVerifier(issuer=ISSUER, audience="parley", jwks_url=server.url)


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    return ".".join(
        encoded(part) for part in (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    )


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with_the_public_key() -> str:
    """The classic confusion: HS256 with the published key as its secret."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    start = unsigned({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, claims()).rpartition(".")[0]
    return f"{start}.{encoded(hmac.new(public, start.encode(), hashlib.sha256).digest())}"


NOW = time.time
REFUSED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "hello",
    "two dots of nothing": lambda: "..",
    "not base64": lambda: "a.b.c",
    "not text": lambda: "\u2028.\ud800.x",
    "too long": lambda: token(more="x" * 20_000),
    "a deep header": lambda: f"{encoded(b'[' * 3000)}.e30.e30",
    "alg none": lambda: unsigned({"alg": "none", "kid": "rsa"}, claims()),
    "alg None": lambda: unsigned({"alg": "None", "kid": "rsa"}, claims()),
    "alg of a wrong type": lambda: unsigned({"alg": ["RS256"], "kid": "rsa"}, claims()),
    "HS256 with the public key": signed_with_the_public_key,
    "HS256 with a symmetric key of the set": lambda: token(
        "secret-secret-secret-secret-secret", "oct", "HS256"
    ),
    "RS512": lambda: token(alg="RS512"),
    "PS256": lambda: token(alg="PS256"),
    "ES256 named RS256": lambda: token(RSA, "ec"),
    "RS256 named ES256": lambda: token(EC, "rsa", "ES256"),
    "a weak key": lambda: token(WEAK, "weak"),
    "another curve": lambda: token(EC384, "ec384", "ES384"),
    "a key for encryption": lambda: token(OTHER, "encrypting"),
    "another's key under this kid": lambda: token(OTHER, "rsa"),
    "an unknown kid": lambda: token(kid="unknown"),
    "no kid": lambda: token(kid=None),
    "a kid that is a path": lambda: token(kid="../../etc/passwd"),
    "a kid that is no text": lambda: unsigned({"alg": "RS256", "kid": 1}, claims()),
    "a key in the header": lambda: token(OTHER, "own", header={"jwk": published(OTHER, "own")}),
    "a critical extension": lambda: token(header={"crit": ["b64"], "b64": True}),
    "a changed payload": lambda: swapped(token()),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "another issuer": lambda: token(iss="https://evil.example"),
    "an issuer that begins like ours": lambda: token(iss=ISSUER + ".evil.example"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=int(NOW()) - 60),
    "no expiry": lambda: token(exp=None),
    "an endless expiry": lambda: unsigned({"alg": "RS256", "kid": "rsa"}, claims(exp=float("inf"))),
    "an expiry of a wrong type": lambda: token(exp="soon"),
    "not yet valid": lambda: token(nbf=int(NOW()) + 60),
    "made in the future": lambda: token(iat=int(NOW()) + 60),
    "no subject": lambda: token(sub=None),
    "an empty subject": lambda: token(sub=""),
    "a subject of control characters": lambda: token(sub="a\nb"),
    "a subject too long": lambda: token(sub="x" * 200),
}


def swapped(valid: str) -> str:
    header, _, signature = valid.split(".")
    return f"{header}.{encoded(json.dumps(claims(sub='somebody-else')).encode())}.{signature}"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
async def test_23_a_token_that_is_not_genuine_is_refused(
    make: Callable[[], str], verifier: JwtVerifier
) -> None:
    with pytest.raises(Unauthorized) as refused:
        await verifier.verify(make())
    assert refused.value.message == "The bearer token is not valid."
    assert refused.value.__cause__ is None


async def test_23_a_genuine_token_is_its_subject(verifier: JwtVerifier, server: KeyServer) -> None:
    assert await verifier.verify(token()) == "user-1"
    assert await verifier.verify(token(EC, "ec", "ES256", sub="user-2")) == "user-2"
    assert await verifier.verify(token(aud=["other", "parley"])) == "user-1"
    assert server.asked == 1


async def test_23_clocks_may_differ_a_little(verifier: JwtVerifier) -> None:
    now = int(time.time())
    assert await verifier.verify(token(iat=now + 5, nbf=now + 5, exp=now - 5)) == "user-1"


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"token_use": "access", "client_id": "client", "aud": None}, True),
        ({"token_use": "id", "aud": "client"}, False),
        ({"token_use": "id", "aud": "client", "client_id": "client"}, False),
        ({"token_use": "access", "client_id": "other", "aud": None}, False),
        ({"token_use": "id", "aud": "other"}, False),
        ({"token_use": "id", "aud": ["client"]}, False),
        ({"token_use": "access", "aud": "client"}, False),
        ({"token_use": "refresh", "client_id": "client", "aud": "client"}, False),
        ({"client_id": "client", "aud": "client"}, False),
    ],
)
async def test_23_a_token_of_cognito_is_for_its_client(
    changes: dict[str, Any], passes: bool, server: KeyServer
) -> None:
    verifier = JwtVerifier(issuer=ISSUER, client_id="client", jwks_url=server.url)
    if passes:
        assert await verifier.verify(token(**changes)) == "user-1"
    else:
        with pytest.raises(Unauthorized):
            await verifier.verify(token(**changes))


@pytest.mark.parametrize("token_use", ["id", "refresh", "", 1])
async def test_23_an_audience_alone_takes_no_id_token_of_cognito(
    token_use: object, verifier: JwtVerifier
) -> None:
    assert await verifier.verify(token(token_use="access")) == "user-1"
    assert await refused(verifier, token(token_use=token_use))


async def refused(verifier: JwtVerifier, text: str) -> bool:
    try:
        await verifier.verify(text)
    except Unauthorized:
        return True
    return False


async def test_23_the_host_is_not_hammered(verifier: JwtVerifier, server: KeyServer) -> None:
    server.delay = 0.2
    unknown = await asyncio.gather(*(refused(verifier, token(kid=f"kid-{n}")) for n in range(50)))
    assert all(unknown)
    assert server.asked == 1
    # Known keys are not held up by unknown ones, and need no further question.
    assert await verifier.verify(token()) == "user-1"
    assert await refused(verifier, token(kid="still-unknown"))
    assert server.asked == 1


async def test_23_a_new_key_is_found(
    verifier: JwtVerifier, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.verify(token()) == "user-1"
    server.keys = [published(OTHER, "new")]
    assert await refused(verifier, token(OTHER, "new"))
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    assert await verifier.verify(token(OTHER, "new")) == "user-1"
    # The one that was taken out is gone with it.
    assert await refused(verifier, token())


async def test_23_a_removed_key_is_forgotten(
    verifier: JwtVerifier, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.verify(token()) == "user-1"
    server.keys = [published(OTHER, "new")]
    assert await verifier.verify(token()) == "user-1"
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    monkeypatch.setattr(jwks, "_FRESH", 0.0)

    async def forgotten() -> bool:
        return await refused(verifier, token())

    await eventually(forgotten)


async def test_23_a_known_key_waits_for_no_refresh(
    verifier: JwtVerifier, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.verify(token()) == "user-1"
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    monkeypatch.setattr(jwks, "_FRESH", 0.0)
    monkeypatch.setattr(jwks, "_TIMEOUT", 30.0)
    server.held.clear()
    try:
        # The host answers only when all of them are through, and is asked once.
        for _ in range(5):
            assert await verifier.verify(token()) == "user-1"
        await eventually(lambda: server.asked == 2)
        unknown = asyncio.create_task(refused(verifier, token(OTHER, "new")))
        assert await verifier.verify(token()) == "user-1"
        # Nor do others of the event loop's threads wait, however many tokens of unknown keys there are.
        more = [asyncio.create_task(refused(verifier, token(kid=f"kid-{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: "through") == "through"
        assert not any(task.done() for task in (unknown, *more))
        assert server.asked == 2
        # Who gives up waiting takes the keys from nobody.
        more.pop().cancel()
        server.keys = [published(OTHER, "new")]
    finally:
        server.held.set()
    assert not await unknown
    assert all(await asyncio.gather(*more))
    assert server.asked == 2


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, None, {}),
        (404, None, {}),
        (302, b"", {"location": "http://127.0.0.1:1/keys"}),
        (200, b"<html>", {}),
        (200, b"[]", {}),
        (200, b'{"keys": 1}', {}),
        (200, b'{"keys": [1]}', {}),
        (200, b'{"keys": [{"kid": "rsa", "kty": "RSA"}]}', {}),
        (200, b" " * 300_000, {}),
        (200, b"[" * 100_000, {}),
    ],
)
async def test_23_keys_away(
    status: int, body: bytes | None, headers: dict[str, str], verifier: JwtVerifier, server: KeyServer
) -> None:
    server.status, server.body, server.headers = status, body, headers
    assert await refused(verifier, token())
    assert await refused(verifier, token())
    assert server.asked == 1


async def test_23_keys_refuse_the_connection(server: KeyServer) -> None:
    server.close()
    verifier = JwtVerifier(issuer=ISSUER, audience="parley", jwks_url=server.url)
    assert await refused(verifier, token())


async def test_23_keys_hang(
    verifier: JwtVerifier, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_TIMEOUT", 0.2)
    server.delay = 1.0
    assert all(await asyncio.gather(*(refused(verifier, token()) for _ in range(20))))
    assert server.asked == 1


async def test_23_known_keys_serve_while_the_host_is_away(
    verifier: JwtVerifier, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await verifier.verify(token()) == "user-1"
    server.status = 500
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    monkeypatch.setattr(jwks, "_FRESH", 0.0)
    assert await verifier.verify(token()) == "user-1"
    monkeypatch.setattr(jwks, "_KEPT", 0.0)
    assert await refused(verifier, token())


def test_settings_that_check_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="JWT_ISSUER"):
        JwtVerifier.from_settings(Settings(jwt_audience="parley"))
    with pytest.raises(SettingsError, match="JWT_AUDIENCE or JWT_CLIENT_ID"):
        JwtVerifier.from_settings(Settings(jwt_issuer=ISSUER))
    with pytest.raises(SettingsError, match="https"):
        JwtVerifier.from_settings(Settings(jwt_issuer="http://issuer.example", jwt_audience="parley"))
