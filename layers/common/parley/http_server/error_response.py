"""The server's own error responses, for requests that reach no application or break in one."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from parley.http_server.security_headers import HEADERS
from parley.support.encoding import to_json


def error_response(
    status: int, code: str, message: str, headers: Iterable[tuple[bytes, bytes]], *, bodiless: bool = False
) -> bytes:
    """Return a complete response with a JSON body and `Connection: close`. `bodiless` answers HEAD."""
    body = to_json({"error": {"code": code, "message": message, "retryable": status >= 500}})
    fields = [
        *headers,
        *HEADERS,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    head = STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
    return head if bodiless else head + body
