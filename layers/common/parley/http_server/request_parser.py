"""Requests as they come in: llhttp parses them (RFC 9112); what it tells is put together and bounded here."""

from collections.abc import Callable

import httptools

from parley.http_server.request_cycle import RequestCycle, RequestHead
from parley.http_server.response_head import Header

# A head that is longer is none of a browser's.
_HEAD_BYTES = 1 << 16
_VERSIONS = ("1.0", "1.1")
_FRAMING = (b"content-length", b"transfer-encoding")


class BadRequest(Exception):
    """What came is no request; `too_long` says that it might have become one."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__()
        self.too_long = too_long


class RequestParser:
    """The requests of one connection; `count` have begun. `begun` says that the last one is not whole yet.

    `exchange` is that one once its head is there, until it is whole; its body goes there.
    """

    __slots__ = (
        "_begin", "_expects", "_fed", "_head_bytes", "_headers", "_parser", "_unknown_bytes", "_upgrading",
        "_url", "begun", "count", "exchange",
    )  # fmt: skip

    def __init__(self, begin: Callable[[RequestHead], RequestCycle | None]) -> None:
        """`begin` makes an exchange of a head; None is for a request that nobody wants any more."""
        self._begin = begin
        self._url = b""
        self._headers: list[Header] = []
        self._expects = False
        self._upgrading: bytes | None = None
        self._fed = 0
        self._parser: httptools.HttpRequestParser | None = None
        self.count = 0
        self.exchange: RequestCycle | None = None
        self._parse_anew()

    def feed(self, data: bytes) -> None:
        """Take what has come; raises `BadRequest`."""
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
        """Parse no more. The parser and this refer to each other, which somebody would have to find out."""
        self._parser = None

    def _parse_anew(self) -> None:
        parser = self._parser = httptools.HttpRequestParser(self)
        # What comes after a request that is the last one is for nobody.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.begun = False
        self._head_bytes = 0
        # Of what was fed, so much has not become a whole request or a part of a body.
        self._unknown_bytes = 0

    def _ignore_upgrade(self) -> None:
        """Go on without what was asked for (RFC 9110, 7.8): the parser leaves the body to whoever grants it.

        Another parser is told how the body is framed, and reads it.
        """
        head = b"POST / HTTP/1.1\r\n%b\r\n" % (self._upgrading or b"")
        self._parse_anew()
        self._fed = len(head)
        assert self._parser is not None
        self._parser.feed_data(head)

    # What the parser tells.

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
            self._upgrading = None  # of a request that is known already
            return
        parser = self._parser
        assert parser is not None
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
        self.exchange = self._begin(RequestHead(method, self._url, version, headers, keep, self._expects))
        if parser.should_upgrade():
            framing = [header for header in headers if header[0] in _FRAMING]
            self._upgrading = b"".join(b"%b: %b\r\n" % header for header in framing)

    def on_body(self, body: bytes) -> None:
        self._unknown_bytes = -self._fed
        if self.exchange is not None:
            self.exchange.add(body)

    def on_message_complete(self) -> None:
        if self._upgrading is not None:
            return  # its body is still to come
        self._unknown_bytes = -self._fed
        self.begun = False
        if self.exchange is not None:
            self.exchange.complete()
            self.exchange = None
