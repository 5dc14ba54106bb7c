"""Makes a function's application: its routes in Starlette, with middleware and exception handlers."""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from parley.api.operations import Operation
from parley.api.responses import error_response, json_response
from parley.api.schemas import error_body
from parley.api.services import USER, services_of
from parley.domain.errors import ParleyError
from parley.domain.ids import pseudonym
from parley.http_server.request_limits import RequestLimits
from parley.http_server.security_headers import SecurityHeaders
from parley.services import Services
from parley.settings import Settings, SettingsError
from parley.support.logs import logger

_logger = logger("http")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    operations: Sequence[Operation], settings: Settings, services: Callable[[], Services], **options: Any
) -> Starlette:
    """Return an application with these routes, which call `services` at each request."""
    return prepared(Starlette(routes=operations, **stack(settings), **options), services)


def stack(settings: Settings) -> dict[str, Any]:
    """Return the options of an application that are its middleware and its exception handlers."""
    # The outermost comes first. CORS answers preflights itself, and its pages can read a 413 too.
    middleware = [Middleware(SecurityHeaders)]
    if settings.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.allowed_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
                expose_headers=["retry-after"],
                max_age=3600,
            )
        )
    middleware.append(Middleware(RequestLimits, body_bytes=settings.body_bytes))
    handlers = {
        ParleyError: _on_parley_error,
        SettingsError: _on_misconfigured,
        HTTPException: _on_http_error,
    }
    return {"middleware": middleware, "exception_handlers": handlers}


def prepared(app: Starlette, services: Callable[[], Services]) -> Starlette:
    """Give an application its services. A path with a slash too many is as unknown as any other."""
    app.state.services = services
    app.router.redirect_slashes = False
    return app


async def _on_parley_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParleyError)
    if error.status < 500:
        _log_refusal(request, error.code)
    return error_response(error)


def _log_refusal(request: Request, code: str) -> None:
    # Only routes raise these errors, and no route has a parameter in its path: the path is the route's own.
    fields = {"code": code, "path": request.scope["path"]}
    user = request.scope.get(USER)
    if user is not None:
        fields["user"] = pseudonym(services_of(request).settings.key_secret, user)
    _logger.info("request_refused", extra=fields)


async def _on_misconfigured(request: Request, error: Exception) -> Response:
    # The message quotes no secret, but names a setting, which only the operator should read.
    _logger.error("misconfigured", extra={"reason": str(error)})
    message = "This server is not set up right; its log says how."
    return json_response(error_body("internal", message, retryable=False), 500)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is no such thing here."
    if error.status_code == 405:
        message = "This path does not take this method."
    code = _CODES.get(error.status_code, "invalid_request")
    response = json_response(error_body(code, message, retryable=False), error.status_code)
    response.headers.update(error.headers or {})
    return response
