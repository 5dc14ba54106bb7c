"""Makes a function's FastAPI application, with its middleware, exception handlers and documentation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from parley.api.direct import DirectApp
from parley.api.pages import news_json
from parley.api.schemas import CamelModel, ErrorBody, json_response
from parley.domain.errors import ChatMoved, ParleyError
from parley.http_server.request_limits import RequestLimits
from parley.http_server.security_headers import SecurityHeaders
from parley.services import Services
from parley.settings import Settings, SettingsError
from parley.support.logs import logger

_logger = logger("http")
_CODES = {404: "not_found", 405: "method_not_allowed"}


Documentation = dict[int | str, dict[str, Any]]


def documented(status: int, model: type[CamelModel], *refusals: int) -> Documentation:
    """Return a route's `responses` for OpenAPI: `model` for `status`, and `ErrorBody` for each error."""
    return {status: {"model": model}} | error_responses(*refusals)


def error_responses(*statuses: int) -> Documentation:
    """Return a route's error `responses` for OpenAPI."""
    return {status: {"model": ErrorBody} for status in statuses}


def create_app(
    title: str,
    routers: Sequence[APIRouter],
    settings: Settings,
    services: Callable[[], Services],
    *,
    prefix: str = "",
    **options: Any,
) -> FastAPI:
    """Return an application with `routers` below `prefix`. Routes call `services` at each request."""
    app = DirectApp(
        title=title, version="1", docs_url=None, redoc_url=None,
        openapi_url=f"{prefix}/openapi.json", **options,
    )  # fmt: skip
    app.state.services = services
    for router in routers:
        app.include_router(router, prefix=prefix)
    app.add_exception_handler(ParleyError, _on_parley_error)
    app.add_exception_handler(SettingsError, _on_misconfigured)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(RequestLimits, body_bytes=settings.body_bytes)
    if settings.allowed_origins:
        # Outside of the limits, so that a page of another origin can read a 413 response too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
            expose_headers=["retry-after"],
            max_age=3600,
        )
    # The outermost, since the CORS middleware responds to preflights itself.
    app.add_middleware(SecurityHeaders)
    return app


def error_response(error: ParleyError) -> Response:
    """Return the JSON response for an error, with Retry-After in whole seconds (RFC 9110, section 10.2.3)."""
    detail = {"code": error.code, "message": error.message, "retryable": error.retryable}
    details = error.details()
    if isinstance(error, ChatMoved) and error.news is not None:
        details |= news_json(error.news)
    response = json_response({"error": detail | details}, error.status)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return response


async def _on_parley_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParleyError)
    return error_response(error)


async def _on_misconfigured(request: Request, error: Exception) -> Response:
    # The message quotes no secret, but names a setting, which only the operator should read.
    _logger.error("misconfigured", extra={"reason": str(error)})
    detail = {
        "code": "internal",
        "message": "This server is not set up right; its log says how.",
        "retryable": False,
    }
    return json_response({"error": detail}, 500)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid_request")
    detail = {"code": code, "message": "There is no such thing here.", "retryable": False}
    if error.status_code == 405:
        detail["message"] = "This path does not take this method."
    response = json_response({"error": detail}, error.status_code)
    response.headers.update(error.headers or {})
    return response
