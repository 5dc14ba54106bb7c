"""ASGI middleware that answers only requests whose `Host` names this machine."""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from parley.api.responses import json_response
from parley.api.schemas import error_body


class AllowedHosts:
    """Refuses a request with 400 unless its `Host` is one of `names`, with or without a port."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._host = re.compile(rf"(?:{'|'.join(map(re.escape, names))})(?::\d*)?".encode(), re.IGNORECASE)
        self._message = f"This server answers to {' and '.join(names)} alone."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The server has let one Host pass at most (RFC 9112, section 3.2).
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not self._host.fullmatch(host):
                error = error_body("invalid_request", self._message, retryable=False, field="Host")
                await json_response(error, 400)(scope, receive, send)
                return
        await self._app(scope, receive, send)
