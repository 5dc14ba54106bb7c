"""As much of an HTTP/1.1 server as the floors need, on a bare asyncio protocol."""

import asyncio
from urllib.parse import parse_qsl

import msgspec

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b'17\r\ndata: {"type":"done"}\n\n\r\n0\r\n\r\n'


def token(text: str) -> bytes:
    """Return a token event as a chunk of the body."""
    frame = b'data: {"type":"token","content":%b}\n\n' % msgspec.json.encode(text)
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def json_answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a whole response."""
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


class HttpServer(asyncio.Protocol):
    """One client; a subclass answers."""

    def __init__(self) -> None:
        self._received = b""

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        """Answer a request, by writing to the transport, now or later."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = 0
        if b"\r\ncontent-length:" in lower:
            length = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self._received = rest[length:]
        path, _, query = head.split(b" ", 2)[1].decode().partition("?")
        self.answer(path, dict(parse_qsl(query)), rest[:length])
