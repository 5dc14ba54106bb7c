"""Serialises responses (RFC 9112): status line and fields, chunks, and complete error responses."""

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
# Control characters without tab, which RFC 9110, section 5.5 forbids: CR and LF would inject another field.
_CONTROLS = bytes(set(range(32)) - {9} | {127})


# The bytes of a response's head; the body's length in bytes, if it is known; whether the body is chunked;
# whether the connection persists. Without a length and without chunks, closing ends the body.
Head = tuple[bytes, int | None, bool, bool]


def head_of(status: int, headers: Iterable[Header], *, bodiless: bool, modern: bool, keep: bool) -> Head:
    """Return a response's head. `modern` says that the request is HTTP/1.1, `bodiless` that it is HEAD.

    Raises `RuntimeError` for a field with a control character, for a second Content-Length and for a
    Transfer-Encoding. Raises `ValueError` if Content-Length is not a number.
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
        # The server chooses the framing. A second length or another coding would contradict it, so recipients
        # could disagree on the end of the body (RFC 9112, section 6.3).
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
    # One pass over the head finds a control character in any field: only the line ends may have them.
    if len(head.translate(None, _CONTROLS)) != len(head) - 2 * lines:
        raise RuntimeError("a header that would be more than one")
    return head, length, chunked, keep


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return `body` as one chunk (RFC 9112, section 7.1), with the last chunk after it if `last`."""
    piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return piece + b"0\r\n\r\n" if last else piece


def error_response(
    status: int, code: str, message: str, headers: Iterable[Header], *, bodiless: bool = False
) -> bytes:
    """Return a complete error response with a JSON body and `Connection: close`."""
    body = to_json({"error": {"code": code, "message": message, "retryable": status >= 500}})
    fields = [
        *headers,
        *HEADERS,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    head, *_ = head_of(status, fields, bodiless=bodiless, modern=True, keep=False)
    return head if bodiless else head + body
