"""The headers that protect every answer, at the ASGI seam and through CORS."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parley.api.openapi import documented_app
from parley.api.operations import Operation
from parley.domain.errors import NotFound
from parley.http_server.security_headers import SecurityHeaders
from parley.settings import Settings

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
ORIGIN = "https://chat.example"


async def works(request: Request) -> Response:
    return Response()


async def refuses(request: Request) -> Response:
    raise NotFound


async def breaks(request: Request) -> Response:
    raise ValueError


OPERATIONS = [
    Operation("GET", f"/{endpoint.__name__}", endpoint, {200: None}) for endpoint in (works, refuses, breaks)
]


def application(**settings: Any) -> Starlette:
    def services() -> Any:
        raise AssertionError

    return documented_app("Test", OPERATIONS, Settings(**settings), services)


async def ask(
    app: Starlette, method: str, path: str, base: str = "http://test", **more: Any
) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
        return await client.request(method, path, **more)


@pytest.mark.parametrize("origins", [(), (ORIGIN,)], ids=["one origin", "several"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/works", 200),
        ("GET", "/refuses", 404),
        ("GET", "/breaks", 500),
        ("GET", "/nowhere", 404),
        ("PUT", "/works", 405),
        ("GET", "/openapi.json", 200),
    ],
)
async def test_every_answer_has_the_security_headers(
    method: str, path: str, status: int, origins: tuple[str, ...]
) -> None:
    response = await ask(application(allowed_origins=origins), method, path, headers={"origin": ORIGIN})
    assert response.status_code == status
    assert {name: response.headers.get_list(name) for name in ALWAYS} == {
        name: [value] for name, value in ALWAYS.items()
    }
    assert response.headers.get("access-control-allow-origin") == (ORIGIN if origins else None)


@pytest.mark.parametrize(("origin", "status"), [(ORIGIN, 200), ("https://evil.example", 400)])
async def test_the_answer_to_a_preflight_has_the_security_headers(origin: str, status: int) -> None:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    response = await ask(application(allowed_origins=(ORIGIN,)), "OPTIONS", "/works", headers=headers)
    assert response.status_code == status
    assert {name: response.headers[name] for name in ALWAYS} == ALWAYS


async def test_the_refusal_of_a_body_that_is_too_long_has_the_security_headers() -> None:
    response = await ask(application(body_bytes=10), "POST", "/works", content=b"x" * 11)
    assert response.status_code == 413
    assert {name: response.headers[name] for name in ALWAYS} == ALWAYS


@pytest.mark.parametrize(
    ("base", "expected"), [("https://test", "max-age=63072000; includeSubDomains"), ("http://test", None)]
)
async def test_only_an_answer_over_https_demands_https(base: str, expected: str | None) -> None:
    response = await ask(application(), "GET", "/works", base)
    assert response.headers.get("strict-transport-security") == expected


async def test_an_answer_keeps_security_headers_of_its_own() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"cache-control", b"no-cache"), (b"content-security-policy", b"default-src 'self'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(SecurityHeaders(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/")
    assert response.headers.get_list("cache-control") == ["no-cache"]
    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_security_headers_leave_what_is_no_request_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any: ...

    await SecurityHeaders(app)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
