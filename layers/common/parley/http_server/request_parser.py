"""Assembles requests from llhttp's callbacks (RFC 9112), and limits the size of their heads and trailers."""

from collections.abc import Callable

import httptools

from parley.http_server.request_cycle import RequestCycle, RequestHead
from parley.http_server.response_head import Header

# Bytes of a request's line and fields, or of a body's framing and trailers. No browser sends more.
_HEAD_BYTES = 1 << 16
_VERSIONS = ("1.0", "1.1")
_FRAMING = (b"content-length", b"transfer-encoding")


class BadRequest(Exception):
    """The bytes are not a valid request. `too_long` is True if the head or trailer section is too long."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__()
        self.too_long = too_long


class RequestParser:
    """Parses the requests of one connection.

    - `count`: the number of requests that have begun.
    - `begun`: the last request is incomplete.
    - `cycle`: the last request's cycle, which receives the body; None before the head is complete, after
      the request is complete, or if the request is ignored.
    """

    __slots__ = (
        "_begin", "_expects", "_fed", "_head_bytes", "_headers", "_parser", "_unknown_bytes", "_upgrading",
        "_url", "begun", "count", "cycle",
    )  # fmt: skip

    def __init__(self, begin: Callable[[RequestHead], RequestCycle | None]) -> None:
        """`begin` makes a cycle for a request's head; it returns None to ignore the request."""
        self._begin = begin
        self._url = b""
        self._headers: list[Header] = []
        self._expects = False
        self._upgrading: bytes | None = None
        self._fed = 0
        self._parser: httptools.HttpRequestParser | None = None
        self.count = 0
        self.cycle: RequestCycle | None = None
        self._parse_anew()

    def feed(self, data: bytes) -> None:
        """Parse received data. Raises `BadRequest`."""
        left: bytes | memoryview = data
        while left and self._parser is not None:
            self._fed = len(left)
            try:
                try:
                    self._parser.feed_data(left)
                    left = b""
                except httptools.HttpParserUpgrade as upgrade:
                    left = memoryview(left)[upgrade.args[0] :]
                    self._ignore_upgrade()
            except httptools.HttpParserError:
                raise BadRequest(too_long=self._head_bytes > _HEAD_BYTES) from None
            self._unknown_bytes += self._fed
            if self._unknown_bytes > _HEAD_BYTES:
                raise BadRequest(too_long=True)

    def end(self) -> None:
        """Drop the parser. It and this object form a cycle that only the garbage collector could free."""
        self._parser = None

    def _parse_anew(self) -> None:
        parser = self._parser = httptools.HttpRequestParser(self)
        # Ignore data after a request with `Connection: close`, instead of an error for it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.begun = False
        self._head_bytes = 0
        # Bytes fed since the last part of a body or the last complete request. Only framing and fields can
        # make it grow, so this bounds endless heads, chunk extensions and trailers.
        self._unknown_bytes = 0

    def _ignore_upgrade(self) -> None:
        """Ignore an upgrade, as RFC 9110, section 7.8 allows, and read the request's body.

        llhttp stops after the head of a request that asks for an upgrade. A new parser gets a head with the
        same framing fields and parses the body.
        """
        head = b"POST / HTTP/1.1\r\n%b\r\n" % (self._upgrading or b"")
        self._parse_anew()
        self._fed = len(head)
        assert self._parser is not None
        self._parser.feed_data(head)

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        self.begun = True
        self.count += 1
        self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._expects = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._headers.append((name, value.rstrip(b" \t")))
        if name == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        if self._upgrading is not None:
            self._upgrading = None  # the head of `_ignore_upgrade`: this request has its cycle already
            return
        parser = self._parser
        assert parser is not None
        # The sum is only taken if this head could be too long, since nearly every head arrives in one read.
        if self._fed > _HEAD_BYTES or self._unknown_bytes + self._fed > _HEAD_BYTES:
            self._head_bytes = len(self._url) + sum(
                len(name) + len(value) + 4 for name, value in self._headers
            )
        version = parser.get_http_version()
        if self._head_bytes > _HEAD_BYTES or version not in _VERSIONS:
            raise ValueError("a head that is too long, or of another protocol")
        headers, self._headers = self._headers, []
        method = parser.get_method().decode("ascii")
        keep = version == "1.1" and parser.should_keep_alive()
        self.cycle = self._begin(RequestHead(method, self._url, version, headers, keep, self._expects))
        if parser.should_upgrade():
            framing = [header for header in headers if header[0] in _FRAMING]
            self._upgrading = b"".join(b"%b: %b\r\n" % header for header in framing)

    def on_body(self, body: bytes) -> None:
        # `feed` adds `_fed` afterwards, so the count starts at zero after this read.
        self._unknown_bytes = -self._fed
        if self.cycle is not None:
            self.cycle.add(body)

    def on_message_complete(self) -> None:
        if self._upgrading is not None:
            return  # llhttp ended the request at its head; `_ignore_upgrade` parses the body
        self._unknown_bytes = -self._fed
        self.begun = False
        if self.cycle is not None:
            self.cycle.complete()
            self.cycle = None
