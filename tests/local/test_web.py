"""The page's files beside the API, as a laptop and a container serve them."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from functions.stream.app import OPERATIONS as STREAM
from local.allowed_hosts import AllowedHosts
from local.web import mount_web
from parley.api import health
from parley.api.app import create_app
from parley.api.openapi import documented_app
from parley.services import Services
from parley.settings import Settings
from tests.functions.in_process import history, start
from tests.world import World


def unused() -> Services:
    raise AssertionError


@pytest.fixture
async def laptop() -> AsyncIterator[httpx.AsyncClient]:
    app = documented_app(
        "Test",
        [*start.OPERATIONS, *STREAM, *history.OPERATIONS, *health.OPERATIONS],
        Settings(),
        unused,
        prefix="/api",
    )
    mount_web(app)
    transport = httpx.ASGITransport(AllowedHosts(app, ["127.0.0.1", "localhost"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_a_path_of_the_api_takes_the_methods_that_the_deployed_function_takes(
    laptop: httpx.AsyncClient, method: str
) -> None:
    for operations in (start.OPERATIONS, STREAM, history.OPERATIONS):
        function = create_app([*operations, *health.OPERATIONS], Settings(), unused)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(function), base_url="http://localhost"
        ) as deployed:
            for operation in operations:
                if operation.method != method:
                    there = await deployed.request(method, operation.path)
                    here = await laptop.request(method, f"/api{operation.path}")
                    assert (here.status_code, here.headers["allow"]) == (405, operation.method)
                    assert (here.content, here.headers) == (there.content, there.headers)


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/chat/start/", "/api/%00"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_path_that_the_api_lacks_is_no_page_either(
    laptop: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await laptop.request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/json")
    if method != "HEAD":
        assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/index.html%00",
        "/chat/%00",
        "/assets/%00.js",
        "/simple.html/",
        "/nothing",
        "/../web.py",
        "/" + "a" * 300,
        "/" + "a" * 5000,
        "/" + "a/" * 5000,
    ],
)
async def test_a_path_that_no_file_has_is_not_found(laptop: httpx.AsyncClient, path: str) -> None:
    response = await laptop.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_pages_are_served_to_get_and_head_alone(shared: World) -> None:
    async with httpx.AsyncClient(base_url=shared.common_server().url, timeout=30) as client:
        for path in ("/", "/chat", "/chat/" + "a" * 5000, "/chat/api/x", "/simple.html", "/apiary"):
            expected = 404 if path == "/apiary" else 200
            assert (await client.get(path)).status_code == expected, path
            assert (await client.head(path)).status_code == expected, path
            refused = await client.post(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
            assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 404),
        ("LocalHost:", 404),
        ("127.0.0.1:80", 404),
        ("127.0.0.1:80:80", 400),
        ("localhost:http", 400),
        ("127x0x0x1", 400),
        ("localhost\n", 400),
        ("localhost.", 400),
        ("localhost.example.com", 400),
        ("example.com:localhost", 400),
        ("example.com", 400),
        ("", 400),
    ],
)
async def test_a_host_that_is_none_of_the_servers_names_is_an_error_of_the_api(
    laptop: httpx.AsyncClient, host: str, status: int
) -> None:
    response = await laptop.get("/nothing", headers={"host": host})
    assert response.status_code == status
    if status == 400:
        assert json.loads(response.content) == {
            "error": {
                "code": "invalid_request",
                "message": "This server answers to 127.0.0.1 and localhost alone.",
                "retryable": False,
                "field": "Host",
            }
        }
