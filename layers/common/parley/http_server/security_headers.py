"""ASGI middleware that adds security fields to every response: errors, preflights and streams too."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A field that the response sets itself is kept: the laptop's pages have their own Content-Security-Policy.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
# Two years in seconds. Only for https: RFC 6797, section 7.2 forbids the field over plain HTTP.
_SECURE_HEADERS = [*HEADERS, (b"strict-transport-security", b"max-age=63072000; includeSubDomains")]


class SecurityHeaders:
    """Adds the security fields that a response lacks. It is the outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        fields = _SECURE_HEADERS if scope["scheme"] == "https" else HEADERS

        def dressed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                has = [name.lower() for name, _ in headers]
                headers += [header for header in fields if header[0] not in has]
                message["headers"] = headers
            return send(message)

        await self._app(scope, receive, dressed)
