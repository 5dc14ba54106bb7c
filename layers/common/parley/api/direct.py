"""A FastAPI application that answers most of its routes without FastAPI's way to them."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
_ENDPOINT = "parley.endpoint"


class DirectApp(FastAPI):
    """Finds most routes of its routers by their path, inside the same middleware and error handlers.

    Such a route reads its request and makes its response itself. To match it among others, to solve
    dependencies that it does not have, and to keep stacks for what it does not open takes FastAPI as long
    as the rest of a short answer takes us. Whatever is not found here goes FastAPI's way. Middleware is made
    twice, for either way, at the first request; what is added after that is not heeded.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._within: ASGIApp | None = None

    def include_router(self, router: APIRouter, *, prefix: str = "", **options: Any) -> None:
        """Add a router's routes; those that take a request and no more, and return a response, directly."""
        super().include_router(router, prefix=prefix, **options)
        if options or router.dependencies:
            return
        for route in router.routes:
            if isinstance(route, APIRoute) and _is_plain(route):
                for method in route.methods or ():
                    # Of two that match, FastAPI takes the first.
                    self._endpoints.setdefault((method, prefix + route.path), route.endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
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
