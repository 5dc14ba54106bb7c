"""Who may what: every endpoint for everybody, as one table; rows 17 to 25 of the list of faults."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from parley.domain.ids import SessionIds, new_id
from tests.functions.in_process import CONTEXT, event, lambda_world
from tests.functions.in_process import history as history_function
from tests.functions.in_process import start as start_function
from tests.processes import VERIFY
from tests.tokens import ISSUER, OTHER, KeyServer, token
from tests.world import SESSION_IDS, World

_numbers = count()


# -- the endpoints ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """What a request is about: a chat with an answer in it, and the session of that."""

    chat_id: str
    session_id: str


@dataclass(frozen=True)
class Endpoint:
    """A way to ask. `ids` says which of a thing's ids it takes."""

    method: str
    path: str
    body: Callable[[Thing], dict[str, Any]] | None = None
    query: Callable[[Thing], dict[str, str]] | None = None
    ids: bool = True


_ASK = {"prompt": "May I?", "modelId": "fake"}

ENDPOINTS = {
    "start": Endpoint("POST", "/chat/start", lambda _: _ASK, ids=False),
    "start in a chat": Endpoint("POST", "/chat/start", lambda it: _ASK | {"chatId": it.chat_id}),
    "regenerate": Endpoint(
        "POST",
        "/chat/start",
        lambda it: {"modelId": "fake", "chatId": it.chat_id, "regenerate": True},
    ),
    "stop": Endpoint("POST", "/chat/stop", lambda it: {"sessionId": it.session_id}),
    "stream": Endpoint("GET", "/chat/stream", query=lambda it: {"sessionId": it.session_id}),
    "history": Endpoint("GET", "/chat/history", query=lambda it: {"chatId": it.chat_id}),
    "list": Endpoint("GET", "/chat/list", ids=False),
    "models": Endpoint("GET", "/chat/models", ids=False),
    "health": Endpoint("GET", "/health", ids=False),
    "ready": Endpoint("GET", "/ready", ids=False),
    "openapi": Endpoint("GET", "/openapi.json", ids=False),
}

# Nothing here belongs to anybody.
_PUBLIC = {"health": 200, "ready": 204, "openapi": 200}
# The session's id is the right to read it, so that EventSource can; no token is asked for, or looked at.
_TICKET = {"stream": 200}


def _for_all(status: int) -> dict[str, int]:
    return dict.fromkeys(ENDPOINTS, status) | _PUBLIC | _TICKET


_OWNER = _for_all(200) | {"start": 201, "start in a chat": 201, "regenerate": 201, "stop": 202}
_STRANGER = _OWNER | {"start in a chat": 404, "regenerate": 404, "stop": 404, "history": 404}
# Somebody disabled may still stop what runs.
_DISABLED = _for_all(403) | {"stop": 202, "stream": 403}
_UNKNOWN = {"start in a chat": 404, "regenerate": 404, "stop": 404, "stream": 404, "history": 404}

# -- who asks, in jwt mode: a token, a claimed userId, and what is answered about the owner's things ------

Who = tuple[Callable[[str], str | None], Callable[[str], str | None], dict[str, int]]


def _nobody(_: str) -> None:
    return None


JWT: dict[str, Who] = {
    "the owner": (lambda owner: token(sub=owner), _nobody, _OWNER),
    "the owner, by name": (lambda owner: token(sub=owner), lambda owner: owner, _OWNER),
    "the owner as somebody else": (lambda owner: token(sub=owner), lambda _: "stranger", _for_all(403)),
    "a stranger": (lambda _: token(sub="stranger"), _nobody, _STRANGER),
    "a stranger as the owner": (lambda _: token(sub="stranger"), lambda owner: owner, _for_all(403)),
    "nobody": (_nobody, _nobody, _for_all(401)),
    "nobody as the owner": (_nobody, lambda owner: owner, _for_all(401)),
    "an expired token": (lambda owner: token(sub=owner, exp=int(time.time()) - 60), _nobody, _for_all(401)),
    "a token of the future": (
        lambda owner: token(sub=owner, nbf=int(time.time()) + 3600),
        _nobody,
        _for_all(401),
    ),
    "another issuer's token": (
        lambda owner: token(sub=owner, iss="https://evil.example"),
        _nobody,
        _for_all(401),
    ),
    "another service's token": (lambda owner: token(sub=owner, aud="other"), _nobody, _for_all(401)),
    "another key's token": (lambda owner: token(OTHER, sub=owner), _nobody, _for_all(401)),
    "no token at all": (lambda _: "not-a-token", _nobody, _for_all(401)),
}

# -- and in trusted mode, where a userId is believed and a token is not looked at --------------------------

TRUSTED: dict[str, Who] = {
    "the owner": (_nobody, lambda owner: owner, _OWNER),
    "the owner, with a token of no use": (lambda _: "not-a-token", lambda owner: owner, _OWNER),
    "a stranger": (_nobody, lambda _: "demo-free", _STRANGER),
    "a user that there is not": (_nobody, lambda _: "not-there", _for_all(404)),
    "nobody": (_nobody, _nobody, _for_all(400) | {"stop": 202}),
    "a name that is none": (_nobody, lambda _: "two words", _for_all(400)),
}

# -- the table ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


@dataclass
class Site:
    """A server in one of the modes."""

    world: World
    url: str
    jwt: bool

    async def ask(
        self, endpoint: Endpoint, thing: Thing, bearer: str | None, claimed: str | None
    ) -> httpx.Response:
        """Send one request, and read of a stream what comes."""
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        query = endpoint.query(thing) if endpoint.query else {}
        body = endpoint.body(thing) if endpoint.body else None
        if claimed is not None and body is not None:
            body = body | {"userId": claimed}
        elif claimed is not None:
            query = query | {"userId": claimed}
        async with httpx.AsyncClient(base_url=f"{self.url}/api", timeout=30, verify=VERIFY) as http:
            content = None if body is None else json.dumps(body)
            if body is not None:
                headers["content-type"] = "application/json"
            return await http.request(
                endpoint.method, endpoint.path, params=query, content=content, headers=headers
            )

    async def thing(self, owner: str) -> Thing:
        """Have a user ask something, and wait for the answer."""
        bearer, claimed = (token(sub=owner), None) if self.jwt else (None, owner)
        nothing = Thing("", "")
        started = (await self.ask(ENDPOINTS["start"], nothing, bearer, claimed)).json()
        thing = Thing(started["chatId"], started["sessionId"])
        assert (await self.ask(ENDPOINTS["stream"], thing, None, None)).status_code == 200
        return thing

    def owner(self) -> str:
        """Return a new user; in trusted mode one that was put there, in jwt mode one never seen."""
        name = f"owner-{next(_numbers)}"
        if not self.jwt:
            self.world.sql("insert into users (id, plan_id) values (%s, 'pro')", name)
        return name

    def rows(self) -> list[Any]:
        """Return how many rows there are of all that a request might leave."""
        return self.world.sql(
            "select (select count(*) from chats), (select count(*) from messages),"
            " (select count(*) from sessions), (select count(stop_requested_at) from sessions)"
        )


@pytest.fixture
def jwt_site(shared: World, issuer: KeyServer) -> Site:
    settings = {
        "AUTH_MODE": "jwt",
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": "parley",
        "JWT_JWKS_URL": issuer.url,
    }
    return Site(shared, shared.common_server(0, **settings).url, jwt=True)


@pytest.fixture
def trusted_site(shared: World) -> Site:
    return Site(shared, shared.common_server().url, jwt=False)


def _check_headers(response: httpx.Response) -> None:
    for name, value in {
        "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
        "cross-origin-resource-policy": "same-origin",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    }.items():  # fmt: skip
        assert response.headers.get_list(name) == [value]
    assert "no-store" in response.headers["cache-control"]
    assert "strict-transport-security" not in response.headers


def _check_refusal(response: httpx.Response, owner: str, thing: Thing) -> None:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["code"]
    assert error["message"]
    assert error["retryable"] is False
    for secret in (owner, thing.chat_id, thing.session_id, "May I?", "eyJ", "not-a-token"):
        assert secret not in response.text


def _cells(table: dict[str, Who]) -> list[Any]:
    return [pytest.param(endpoint, who, id=f"{who}: {endpoint}") for who in table for endpoint in ENDPOINTS]


async def _check(site: Site, name: str, who: Who) -> None:
    endpoint = ENDPOINTS[name]
    bearer, claimed, expected = who
    owner = site.owner()
    thing = await site.thing(owner)
    before = site.rows()
    response = await site.ask(endpoint, thing, bearer(owner), claimed(owner))
    assert response.status_code == expected[name], response.text
    _check_headers(response)
    if response.status_code >= 400:
        _check_refusal(response, owner, thing)
        assert site.rows() == before
    if expected[name] != 404 or not endpoint.ids:
        return
    # What belongs to somebody else is answered as what never was, byte for byte.
    forged = SessionIds("a secret of somebody else").new()
    for unknown in (
        Thing(new_id(), SESSION_IDS.new()),
        Thing(new_id(), forged),
        Thing("no/such\0id", "é" * 200),
    ):
        other = await site.ask(endpoint, unknown, bearer(owner), claimed(owner))
        assert _told(other) == _told(response)


def _told(response: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "date"]
    return response.status_code, headers, response.content


@pytest.mark.parametrize(("endpoint", "who"), _cells(JWT))
async def test_18_23_with_tokens(jwt_site: Site, endpoint: str, who: str) -> None:
    await _check(jwt_site, endpoint, JWT[who])


@pytest.mark.parametrize(("endpoint", "who"), _cells(TRUSTED))
async def test_18_in_trusted_mode(trusted_site: Site, endpoint: str, who: str) -> None:
    await _check(trusted_site, endpoint, TRUSTED[who])


@pytest.mark.parametrize("mode", ["jwt", "trusted"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_24_somebody_who_is_disabled(
    jwt_site: Site, trusted_site: Site, mode: str, endpoint: str
) -> None:
    site = jwt_site if mode == "jwt" else trusted_site
    owner = site.owner()
    thing = await site.thing(owner)
    site.world.sql("update users set disabled_at = now() where id = %s", owner)
    bearer, claimed = (token(sub=owner), None) if site.jwt else (None, owner)
    response = await site.ask(ENDPOINTS[endpoint], thing, bearer, claimed)
    assert response.status_code == _DISABLED[endpoint], response.text
    _check_headers(response)
    if response.status_code == 403:
        assert response.json()["error"]["code"] == "user_disabled"
        _check_refusal(response, owner, thing)


@pytest.mark.parametrize("mode", ["jwt", "trusted"])
@pytest.mark.parametrize("endpoint", _UNKNOWN)
async def test_18_the_owner_of_something_else(
    jwt_site: Site, trusted_site: Site, mode: str, endpoint: str
) -> None:
    site = jwt_site if mode == "jwt" else trusted_site
    owner = site.owner()
    await site.thing(owner)
    bearer, claimed = (token(sub=owner), None) if site.jwt else (None, owner)
    unknown = Thing(new_id(), SESSION_IDS.new())
    response = await site.ask(ENDPOINTS[endpoint], unknown, bearer, claimed)
    assert response.status_code == _UNKNOWN[endpoint], response.text
    _check_refusal(response, owner, unknown)


@pytest.mark.parametrize("mode", ["jwt", "trusted"])
async def test_17_a_session_that_expired_is_gone_for_everybody(
    jwt_site: Site, trusted_site: Site, mode: str
) -> None:
    site = jwt_site if mode == "jwt" else trusted_site
    owner = site.owner()
    thing = await site.thing(owner)
    site.world.sql("update sessions set expires_at = now() - interval '1 s' where id = %s", thing.session_id)
    for bearer in (None, token(sub=owner), token(sub="stranger")):
        response = await site.ask(ENDPOINTS["stream"], thing, bearer, None)
        assert (response.status_code, response.json()["error"]["code"]) == (410, "session_expired")
        _check_headers(response)


@pytest.mark.parametrize("mode", ["jwt", "trusted"])
@pytest.mark.parametrize("endpoint", ["start", "start in a chat", "regenerate"])
async def test_19_25_what_the_plan_does_not_allow(
    jwt_site: Site, trusted_site: Site, mode: str, endpoint: str
) -> None:
    site = jwt_site if mode == "jwt" else trusted_site
    owner = site.owner()
    thing = await site.thing(owner)
    bearer, claimed = (token(sub=owner), None) if site.jwt else (None, owner)
    asked = ENDPOINTS[endpoint]
    assert asked.body is not None
    body = asked.body
    for model, status, code in (("not-there", 400, "unknown_model"), ("kept", 403, "model_not_in_plan")):
        site.world.sql(
            "insert into models (id, provider, name, title, max_output_tokens, context_characters)"
            " values ('kept', 'openai', 'kept', 'Kept', 1, 1) on conflict do nothing"
        )

        def other(it: Thing, model: str = model) -> dict[str, Any]:
            return body(it) | {"modelId": model}

        response = await site.ask(Endpoint(asked.method, asked.path, other), thing, bearer, claimed)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        _check_headers(response)
    site.world.limit(requests_per_minute=1)
    try:
        response = await site.ask(asked, thing, bearer, claimed)
    finally:
        site.world.limit()
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
    assert int(response.headers["retry-after"]) >= 1
    _check_headers(response)


# -- https ---------------------------------------------------------------------------------------------


async def test_behind_https_every_answer_says_to_stay_there(jwt_site: Site) -> None:
    # As Lambda Web Adapter passes on what CloudFront and function URLs say.
    headers = {"x-forwarded-proto": "https"}
    async with httpx.AsyncClient(
        base_url=f"{jwt_site.url}/api", headers=headers, timeout=30, verify=VERIFY
    ) as http:
        for path in ("/ready", "/chat/list", "/nowhere", "/chat/stream?sessionId=x"):
            response = await http.get(path)
            assert response.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"


@pytest.mark.parametrize(("path", "status"), [("/ready", 204), ("/nowhere", 404), ("/chat/start", 405)])
def test_a_function_url_is_always_https(path: str, status: int) -> None:
    with lambda_world(start_function.handler):
        answer = start_function.handler(event("GET", path), CONTEXT)
    assert answer["statusCode"] == status
    assert answer["headers"]["strict-transport-security"] == "max-age=63072000; includeSubDomains"
    assert answer["headers"]["x-content-type-options"] == "nosniff"


# -- users at first sight -----------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["start", "list", "models"])
async def test_a_valid_subject_is_a_user_at_first_sight(
    jwt_site: Site, issuer: KeyServer, shared: World, endpoint: str
) -> None:
    settings = {
        "AUTH_MODE": "jwt",
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": "parley",
        "JWT_JWKS_URL": issuer.url,
    }
    other = Site(shared, shared.common_server(1, **settings).url, jwt=True)
    owner = jwt_site.owner()
    bearer = token(sub=owner)
    asks: list[Awaitable[httpx.Response]] = [
        site.ask(ENDPOINTS[endpoint], Thing("", ""), bearer, None) for site in (jwt_site, other) * 8
    ]
    responses = await asyncio.gather(*asks)
    assert {response.status_code for response in responses} == {_OWNER[endpoint]}
    [[plan]] = shared.sql("select plan_id from users where id = %s", owner)
    assert shared.sql("select is_default from plans where id = %s", plan) == [(True,)]
    if endpoint == "models":
        assert {model["id"]: model["available"] for model in responses[0].json()["models"]}["demo"]


async def test_reading_what_is_not_there_makes_no_user(jwt_site: Site) -> None:
    owner = jwt_site.owner()
    for endpoint in ("history", "stop"):
        thing = Thing(new_id(), SESSION_IDS.new())
        response = await jwt_site.ask(ENDPOINTS[endpoint], thing, token(sub=owner), None)
        assert response.status_code == 404
    assert jwt_site.world.sql("select count(*) from users where id = %s", owner) == [(0,)]


# -- completeness -------------------------------------------------------------------------------------


def _routes(routes: Iterable[object]) -> set[tuple[str, str]]:
    """Return method and path of every route, without the prefix; HEAD goes with its GET."""
    found = set()
    for route in routes:
        assert isinstance(route, Route), route
        path = route.path.removeprefix("/api")
        found |= {(method, path) for method in route.methods or () if method != "HEAD"}
    return found


def test_every_route_is_in_the_table() -> None:
    from functions.stream import app as stream_function
    from local.server import app as laptop

    everywhere = {("GET", "/health"), ("GET", "/ready"), ("GET", "/openapi.json")}
    table = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS.values()}
    found: set[tuple[str, str]] = set()
    for function in (start_function, stream_function, history_function):
        routes = _routes(function.app.routes)
        assert everywhere < routes
        found |= routes
    assert found == table
    # The laptop has its pages beside them, which are nobody's.
    assert _routes(laptop.routes) == table | {("GET", "/{path:path}")}
    for expected in (*(who[2] for who in (JWT | TRUSTED).values()), _DISABLED):
        assert set(expected) == set(ENDPOINTS)
