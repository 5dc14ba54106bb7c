"""How an answer goes on the wire: its head, its chunks, and refusals that are whole (RFC 9112)."""

import http
from collections.abc import Iterable

from parley.http_server.security_headers import HEADERS
from parley.support.encoding import to_json

Header = tuple[bytes, bytes]

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus
}
_BODILESS = (204, 304)
_OURS = frozenset((b"connection", b"content-length", b"transfer-encoding"))
# What no line of a head may hold: it would end the line, or mean something else to somebody.
_CONTROLS = bytes(set(range(32)) - {9} | {127})


# An answer's head; its body's length in bytes, where that is known; whether it is chunked; whether the
# connection may go on. Where neither length nor chunks are said, its end is that of the body.
Head = tuple[bytes, int | None, bool, bool]


def head_of(status: int, headers: Iterable[Header], *, bodiless: bool, modern: bool, keep: bool) -> Head:
    """Make a head. `modern` says that the client knows chunks; `bodiless`, that it asked for a head only.

    Raises `RuntimeError` where a header would become two, or two say how the answer ends; `ValueError`
    where a length is no number.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    length: int | None = None
    chunked = closes = False
    lines = 2
    for name, value in headers:
        lines += 1
        parts += (name, b": ", value, b"\r\n")
        known = name.lower()
        if known not in _OURS:
            continue
        if known == b"connection":
            closes = b"close" in value.lower()
        elif length is not None or known != b"content-length":
            raise RuntimeError("an answer that says twice how it ends")
        else:
            length = int(value)
    if bodiless or status in _BODILESS:
        length = 0
    elif length is None and modern:
        chunked = True
        lines += 1
        parts.append(b"transfer-encoding: chunked\r\n")
    keep = keep and not closes and (chunked or length is not None)
    if not keep and not closes:
        lines += 1
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    if len(head.translate(None, _CONTROLS)) != len(head) - 2 * lines:
        raise RuntimeError("a header that would be more than one")
    return head, length, chunked, keep


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return a part of a chunked body (7.1)."""
    piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return piece + b"0\r\n\r\n" if last else piece


def refusal(
    status: int, code: str, message: str, headers: Iterable[Header], *, bodiless: bool = False
) -> bytes:
    """Return a whole answer, after which the connection is closed."""
    body = to_json({"error": {"code": code, "message": message, "retryable": status >= 500}})
    fields = [
        *headers,
        *HEADERS,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    head, *_ = head_of(status, fields, bodiless=bodiless, modern=True, keep=False)
    return head if bodiless else head + body
