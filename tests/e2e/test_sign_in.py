"""Signing in at a hosted login, as a deployment has it: the login is played here, all else is real."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from playwright.async_api import Page, Route, expect

from tests.e2e.chat_page import ChatPage
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_KEY = rsa.generate_private_key(65537, 2048)
_ISSUER = "https://issuer.example"
_CLIENT = "the-site"
_CONFIG = {
    "auth": {"kind": "bearer", "signInUrl": "/sign-in.html", "loginUrl": "/login", "clientId": _CLIENT},
}


@pytest.fixture
def keys() -> Iterator[str]:
    """Serve the issuer's public key, and return where."""
    body = json.dumps({"keys": [{**json.loads(RSAAlgorithm.to_jwk(_KEY.public_key())), "kid": "k1"}]})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/keys"
    server.shutdown()
    server.server_close()


class Login:
    """The hosted login: asks to sign in, and gives a token for a code whose verifier is right (RFC 7636)."""

    def __init__(self) -> None:
        self.seconds = 300.0
        self.challenges: dict[str, str] = {}
        self.signed_in = 0

    async def authorize(self, route: Route) -> None:
        """Answer with a page that has one link."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(route.request.url).query).items()}
        assert query["client_id"] == _CLIENT
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = query["code_challenge"]
        back = f"{query['redirect_uri']}?code={code}&state={quote(query['state'])}"
        await route.fulfill(content_type="text/html", body=f'<a href="{back}">Sign in as demo-free</a>')

    async def token(self, route: Route) -> None:
        """Answer with a token."""
        form = {name: values[0] for name, values in parse_qs(route.request.post_data or "").items()}
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if self.challenges.pop(form["code"], None) != proof:
            await route.fulfill(status=400, json={"error": "invalid_grant"})
            return
        self.signed_in += 1
        now = time.time()
        claims = {"iss": _ISSUER, "sub": "demo-free", "client_id": _CLIENT, "token_use": "access"}
        claims |= {"iat": int(now), "exp": int(now + self.seconds)}  # type: ignore[dict-item]
        token = jwt.encode(claims, _KEY, algorithm="RS256", headers={"kid": "k1"})
        await route.fulfill(json={"access_token": token, "token_type": "Bearer"})


async def _deployed(page: Page) -> Login:
    login = Login()
    await page.route("**/config.json", lambda route: route.fulfill(json=_CONFIG))
    await page.route("**/login/oauth2/authorize?*", login.authorize)
    await page.route("**/login/oauth2/token", login.token)
    return login


async def test_signing_in_leads_back_to_the_chat(world: World, page: Page, keys: str) -> None:
    server = world.server(AUTH_MODE="jwt", JWT_ISSUER=_ISSUER, JWT_CLIENT_ID=_CLIENT, JWT_JWKS_URL=keys)
    login = await _deployed(page)
    chat = ChatPage(page, server.url)
    await page.goto(f"{server.url}/chat")
    await page.get_by_role("link", name="Sign in as demo-free").click()
    await page.get_by_label("Model").select_option("fake")
    await expect(page.get_by_label("Demo user")).to_have_count(0)
    await chat.ask("Who am I?")
    await chat.finished()
    assert chat.stored(world)["status"] == "complete"
    assert world.sql("select owner_id from chats") == [("demo-free",)]
    address = page.url
    # The token is the tab's: another tab signs in again, and comes to the chat it was opened for.
    other = await page.context.new_page()
    await other.route("**/config.json", lambda route: route.fulfill(json=_CONFIG))
    await other.route("**/login/oauth2/authorize?*", login.authorize)
    await other.route("**/login/oauth2/token", login.token)
    await other.goto(address)
    await other.get_by_role("link", name="Sign in as demo-free").click()
    await expect(other.locator(".bubble")).to_have_text("Who am I?")
    assert other.url == address
    assert login.signed_in == 2


async def test_a_token_that_ran_out_asks_to_sign_in_again(world: World, page: Page, keys: str) -> None:
    server = world.server(AUTH_MODE="jwt", JWT_ISSUER=_ISSUER, JWT_CLIENT_ID=_CLIENT, JWT_JWKS_URL=keys)
    login = await _deployed(page)
    chat = ChatPage(page, server.url)
    await page.goto(f"{server.url}/chat")
    await page.get_by_role("link", name="Sign in as demo-free").click()
    await page.get_by_label("Model").select_option("fake")
    # As after an hour: what the tab has is no longer taken.
    stale = jwt.encode(
        {"iss": _ISSUER, "sub": "demo-free", "exp": 1}, _KEY, algorithm="RS256", headers={"kid": "k1"}
    )
    await page.evaluate("token => sessionStorage.setItem('parley.token', token)", stale)
    await chat.prompt.fill("Written with care")
    await chat.prompt.press("Enter")
    await expect(chat.banner).to_contain_text("You are signed out")
    await chat.banner.get_by_role("button", name="Sign in again").click()
    await page.get_by_role("link", name="Sign in as demo-free").click()
    await expect(chat.prompt).to_have_value("Written with care")
    await chat.prompt.press("Enter")
    await chat.finished()
    assert login.signed_in == 2


async def test_an_answer_to_no_question_of_this_tab_is_refused(world: World, page: Page, keys: str) -> None:
    server = world.server(AUTH_MODE="jwt", JWT_ISSUER=_ISSUER, JWT_CLIENT_ID=_CLIENT, JWT_JWKS_URL=keys)
    login = await _deployed(page)
    await page.goto(f"{server.url}/sign-in.html?code=stolen&state=guessed")
    await expect(page.get_by_role("status")).to_have_text("Please sign in again.")
    assert login.signed_in == 0
    assert await page.evaluate("sessionStorage.getItem('parley.token')") is None
