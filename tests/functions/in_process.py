"""The functions' applications on stores in memory, asked in process: for all but streaming."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from aws_lambda_powertools.utilities.typing import LambdaContext
from mangum import Mangum

from parley.api import health
from parley.api.app import create_app
from parley.api.openapi import documented_app
from parley.api.operations import Operation
from parley.domain.errors import Unauthorized
from parley.services import Services
from parley.settings import Settings
from parley.usecases.health import HealthCheck
from tests.in_memory import SESSION_IDS, Clock, Process, World

# Mangum leaves an event loop behind where it finds none, for Lambda; here every test has its own.
with asyncio.Runner() as _runner:
    asyncio.set_event_loop(_runner.get_loop())
    from functions.history import app as history
    from functions.start import app as start
asyncio.set_event_loop(None)

__all__ = ["CONTEXT", "Site", "body_of", "event", "history", "lambda_world", "site", "start"]

CONTEXT: Any = LambdaContext()


class Passwords:
    """Verifies tokens that say whose they are."""

    async def verify(self, token: str) -> str:
        if not token.startswith("of-"):
            raise Unauthorized("This token is not valid.")
        return token.removeprefix("of-")


@dataclass
class Site:
    """One application and the process behind it."""

    world: World
    process: Process
    services: Services
    http: httpx.AsyncClient
    clock: Clock

    def rows(self) -> int:
        """Return how many rows there are of what a request might leave."""
        tables = self.world.stage.database
        return len(tables.chats) + len(tables.messages) + len(tables.sessions)


def services_of(process: Process, settings: Settings, clock: Clock) -> Services:
    """Return the services of a process in memory. `clock` is the clock of its health check."""
    verifier = Passwords() if settings.auth_mode == "jwt" else None
    return Services(
        settings,
        process.store,
        process.log,
        process.model,
        process.runner,
        process.cached_replies,
        SESSION_IDS,
        HealthCheck(process.store, process.log, clock),
        verifier,
    )


@asynccontextmanager
async def site(
    operations: Sequence[Operation], *, documented: bool = False, **settings: Any
) -> AsyncIterator[Site]:
    """Serve a function's routes, as its handler does, or as the application that documents them does."""
    world = await World().open()
    read = Settings(**({"auth_mode": "trusted"} | settings))
    services = services_of(process := world.process(), read, clock := Clock())
    routes = [*operations, *health.OPERATIONS]
    app = create_app(routes, read, lambda: services)
    if documented:
        app = documented_app("Test", routes, read, lambda: services)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Site(world, process, services, client, clock)
    await world.close()


@contextmanager
def lambda_world(handler: Mangum) -> Iterator[World]:
    """Have a function's own handler use stores in memory, and its handler an event loop, as in Lambda."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        app: Any = handler.app
        before = app.state.services
        world = loop.run_until_complete(World().open())
        services = services_of(world.process(), Settings(auth_mode="trusted"), Clock())
        app.state.services = lambda: services
        yield world
        loop.run_until_complete(world.close())
        app.state.services = before
        asyncio.set_event_loop(None)


def event(
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    query: str = "",
    encoded: bool = False,
    **headers: str,
) -> dict[str, Any]:
    """Return what a function URL sends: payload format 2.0."""
    sent: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "x.lambda-url.eu-west-1.on.aws"}
        | {name.replace("_", "-"): value for name, value in headers.items()},
        "requestContext": {
            "accountId": "anonymous", "apiId": "x", "domainName": "x.lambda-url.eu-west-1.on.aws",
            "domainPrefix": "x", "requestId": "r", "routeKey": "$default", "stage": "$default",
            "http": {
                "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7",
                "userAgent": "curl/8",
            },
            "time": "23/Nov/2026:12:00:00 +0000", "timeEpoch": 1795435200000,
        },
        "isBase64Encoded": encoded,
    }  # fmt: skip
    if body is not None:
        sent["body"] = base64.b64encode(body).decode() if encoded else body.decode()
    return sent


def body_of(answer: dict[str, Any]) -> Any:
    """Return the JSON of a handler's answer."""
    assert not answer["isBase64Encoded"]
    return json.loads(answer["body"])
