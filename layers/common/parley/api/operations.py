"""The routes of a function: Starlette's, with what OpenAPI says of them."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from parley.api.schemas import ErrorBody, Wire

Endpoint = Callable[[Request], Awaitable[Response]]
# What a response has: a JSON object, a media type that is no JSON, or nothing.
Content = type[Wire] | str | None


class Operation(Route):
    """A route of one method that takes a `Request` and returns a `Response`.

    - `takes`: the JSON body, or None.
    - `query`, `headers`: the parameters, and the optional header fields with their types.
    - `responses`: what each status has.
    - `hidden`: the document does not mention it.
    """

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        responses: Mapping[int, Content],
        *,
        refusals: tuple[int, ...] = (),
        takes: type[Wire] | None = None,
        query: type[Wire] | None = None,
        headers: Mapping[str, Any] = MappingProxyType({}),
        hidden: bool = False,
    ) -> None:
        """`refusals` are the statuses that an error has."""
        super().__init__(path, endpoint, methods=[method])
        self.app = _called(endpoint)
        # Starlette adds HEAD to GET, and would answer it with the length of a body that is never sent.
        self.methods = {method}
        self.method = method
        self.responses = dict(responses) | dict.fromkeys(refusals, ErrorBody)
        self.takes = takes
        self.query = query
        self.headers = headers
        self.hidden = hidden

    def below(self, prefix: str) -> "Operation":
        """Return the same operation with a prefix before its path."""
        return Operation(
            self.method, prefix + self.path, self.endpoint, self.responses,
            takes=self.takes, query=self.query, headers=self.headers, hidden=self.hidden,
        )  # fmt: skip


def _called(endpoint: Endpoint) -> ASGIApp:
    """Return an endpoint as an application.

    Starlette's own also handles exceptions, which the application does for all routes alike.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app
