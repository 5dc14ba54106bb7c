"""ASGI middleware that limits the size of request bodies and responds with 500 to unexpected exceptions."""

from collections.abc import Awaitable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parley.support.encoding import to_json
from parley.support.logs import logger

_logger = logger("http")
# The most digits of a Content-Length that are parsed: `int` raises `ValueError` for thousands of digits.
_LENGTH_DIGITS = 18


class _TooLong(Exception):
    pass


class BrokenOff(Exception):
    """A response failed after its start. The log has the reason, without the exception's message."""


class RequestLimits:
    """Responds with 413 (Content Too Large) to a body above `body_bytes`, and with 500 to an exception.

    Exceptions end here, since servers log an exception's message, and a message may quote data. Raises
    `BrokenOff` if the response has started by then.
    """

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app = app
        self._most = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        started = False

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._most:
                    raise _TooLong
            return message

        def noted(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True  # ASGI's first event is the start of the response
            return send(message)

        # A declared length is checked before the application runs; a chunked body is counted as it arrives.
        length = b"0"
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
        if not length.isdigit() or len(length) > _LENGTH_DIGITS or int(length) > self._most:
            await self._refuse(noted)
            return
        try:
            await self._app(scope, bounded, noted)
        except _TooLong:
            if started:
                raise BrokenOff from None
            await self._refuse(noted)
        except ClientDisconnect:
            pass  # the client left before its body was whole: no bug, and nobody to answer
        except Exception as error:
            _logger.error("request_broke", exc_info=error, extra={"path": scope["path"]})
            if started:
                raise BrokenOff from None
            await _answer(
                noted, 500, {"code": "internal", "message": "Something went wrong here.", "retryable": True}
            )

    async def _refuse(self, send: Send) -> None:
        message = f"The body is longer than {self._most} bytes."
        detail = {"code": "too_large", "message": message, "retryable": False, "field": "body"}
        await _answer(send, 413, detail)


async def _answer(send: Send, status: int, detail: dict[str, object]) -> None:
    body = to_json({"error": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
