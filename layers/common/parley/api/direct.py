"""A FastAPI application that calls plain routes directly, without FastAPI's routing and dependencies."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
_ENDPOINT = "parley.endpoint"


class DirectApp(FastAPI):
    """Looks up a plain route by method and path, inside the same middleware and exception handlers.

    A plain route takes a `Request` and returns a `Response`. FastAPI's matching of routes, empty dependencies
    and exit stacks take as long as the rest of a short response (docs/decisions, routes are answered
    directly). FastAPI handles every other request. The middleware stack is built at the first request, once
    for each of the two ways; middleware added later has no effect.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._within: ASGIApp | None = None

    def include_router(self, router: APIRouter, *, prefix: str = "", **options: Any) -> None:
        """Add a router's routes, and register the plain ones for direct calls.

        A router with options or dependencies has no direct routes, since FastAPI must apply those.
        """
        super().include_router(router, prefix=prefix, **options)
        if options or router.dependencies:
            return
        for route in router.routes:
            if isinstance(route, APIRoute) and _is_plain(route):
                for method in route.methods or ():
                    # If two routes match, FastAPI takes the first.
                    self._endpoints.setdefault((method, prefix + route.path), route.endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        # Under a root path FastAPI strips a prefix from the path first.
        if scope["type"] == "http" and not scope.get("root_path"):
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        if self._within is None:
            self._within = self._wrapped()
        scope["app"] = self
        scope[_ENDPOINT] = endpoint
        await self._within(scope, receive, send)

    def _wrapped(self) -> ASGIApp:
        app: ASGIApp = self._answer
        for middleware, arguments, options in reversed(self.user_middleware):
            app = middleware(app, *arguments, **options)
        return app

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await scope[_ENDPOINT](request)
        except Exception as error:
            # Starlette's rule: the handler of the nearest class in the exception's method resolution order.
            kinds = (kind for kind in type(error).__mro__ if kind in self.exception_handlers)
            kind = next(kinds, None)
            if kind is None:
                raise
            told = self.exception_handlers[kind](request, error)
            response = told if isinstance(told, Response) else await told
        await response(scope, receive, send)


def _is_plain(route: APIRoute) -> bool:
    signature = inspect.signature(route.endpoint)
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    return (
        "{" not in route.path
        and not route.dependencies
        and inspect.iscoroutinefunction(route.endpoint)
        and kinds == [Request]
        and signature.return_annotation is Response
    )
