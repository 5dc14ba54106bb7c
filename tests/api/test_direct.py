"""Answers given directly are those that FastAPI gives."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from parley.api.app import create_app
from parley.api.direct import DirectApp
from parley.api.schemas import json_response
from parley.domain.errors import InvalidRequest, NotFound
from parley.settings import Settings, SettingsError

ORIGIN = "https://chat.example"
router = APIRouter()


@router.get("/works")
async def works(request: Request) -> Response:
    return json_response({"query": str(request.query_params), "app": request.app.title}, 201)


@router.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), headers={"x-own": "yes"})


@router.get("/refuses")
async def refuses(request: Request) -> Response:
    raise InvalidRequest("No.", field="it")


@router.get("/lacks")
async def lacks(request: Request) -> Response:
    raise NotFound


@router.get("/teapot")
async def teapot(request: Request) -> Response:
    raise HTTPException(418, headers={"x-own": "yes"})


@router.get("/misconfigured")
async def misconfigured(request: Request) -> Response:
    raise SettingsError("IT is not set.")


@router.get("/breaks")
async def breaks(request: Request) -> Response:
    raise ValueError


@router.get("/of/{name}")
async def of(request: Request) -> Response:
    return json_response(request.path_params)


@router.get("/solved")
async def solved(number: int, more: int = Depends(lambda: 2)) -> int:
    return number + more


async def forbid() -> None:
    raise HTTPException(403)


@router.get("/guarded", dependencies=[Depends(forbid)])
async def guarded(request: Request) -> Response:
    return json_response({})


@router.get("/works")
async def works_otherwise(request: Request) -> Response:
    return json_response({"never": "asked"})


wholly_guarded = APIRouter(dependencies=[Depends(forbid)])


@wholly_guarded.get("/wholly-guarded")
async def also_guarded(request: Request) -> Response:
    return json_response({})


def application(*, direct: bool, prefix: str = "", **settings: Any) -> FastAPI:
    def services() -> Any:
        raise AssertionError

    app = create_app("Test", [router, wholly_guarded], Settings(**settings), services, prefix=prefix)
    assert isinstance(app, DirectApp)
    if not direct:
        app._endpoints.clear()
    return app


async def ask(app: FastAPI, method: str, path: str, **more: Any) -> tuple[Any, ...]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.request(method, path, headers={"origin": ORIGIN}, **more)
    return response.status_code, sorted(response.headers.raw), response.content


@pytest.mark.parametrize("settings", [{}, {"allowed_origins": (ORIGIN,), "body_bytes": 10}])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/works?a=1&a=2&b=%C3%A9", b""),
        ("GET", "/wor%6Bs", b""),
        ("GET", "/works/", b""),
        ("HEAD", "/works", b""),
        ("PUT", "/works", b""),
        ("OPTIONS", "/works", b""),
        ("POST", "/echo", b"five!"),
        ("POST", "/echo", b"more than ten"),
        ("GET", "/refuses", b""),
        ("GET", "/lacks", b""),
        ("GET", "/teapot", b""),
        ("GET", "/misconfigured", b""),
        ("GET", "/breaks", b""),
        ("GET", "/of/ada", b""),
        ("GET", "/solved?number=3", b""),
        ("GET", "/solved?number=x", b""),
        ("GET", "/guarded", b""),
        ("GET", "/wholly-guarded", b""),
        ("GET", "/nowhere", b""),
        ("GET", "/openapi.json", b""),
    ],
)
async def test_both_ways_answer_the_same(
    method: str, path: str, body: bytes, settings: dict[str, Any]
) -> None:
    answers = [
        await ask(application(direct=direct, **settings), method, path, content=body)
        for direct in (True, False)
    ]
    assert answers[0] == answers[1]


async def test_a_prefix_belongs_to_the_path() -> None:
    app = application(direct=True, prefix="/api")
    assert (await ask(app, "GET", "/api/works"))[0] == 201
    assert (await ask(app, "GET", "/works"))[0] == 404


async def test_only_what_needs_nothing_of_fastapi_is_answered_directly() -> None:
    app = application(direct=True)
    assert isinstance(app, DirectApp)
    assert {path for _, path in app._endpoints} == {
        "/works", "/echo", "/refuses", "/lacks", "/teapot", "/misconfigured", "/breaks",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["start", "stream", "history"])
async def test_every_route_of_a_function_is_answered_directly(name: str) -> None:
    module = importlib.import_module(f"functions.{name}.app")
    app = module.app
    assert isinstance(app, DirectApp)
    for route in module.router.routes:
        assert isinstance(route, APIRoute)
        assert app._endpoints.keys() >= {(method, route.path) for method in route.methods or ()}


async def test_the_application_still_begins_and_ends() -> None:
    seen = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seen.append("begun")
        yield
        seen.append("over")

    app = create_app("Test", [router], Settings(), lambda: None, lifespan=lifespan)  # type: ignore[arg-type, return-value]
    said = asyncio.Queue[dict[str, str]]()
    for word in ("startup", "shutdown"):
        said.put_nowait({"type": f"lifespan.{word}"})

    async def send(message: Any) -> None:
        seen.append(message["type"])

    await app({"type": "lifespan", "state": {}}, said.get, send)
    assert seen == ["begun", "lifespan.startup.complete", "over", "lifespan.shutdown.complete"]
