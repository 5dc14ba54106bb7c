"""The load client: raw sockets, as little work as will do, so that what is measured is the server."""

import asyncio
import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from bench.upstream import MARK


def get(path: str, headers: str = "", **query: object) -> bytes:
    """Return a GET request."""
    target = path + "".join(
        f"{'&' if number else '?'}{name}={quote(str(value), safe='')}"
        for number, (name, value) in enumerate(query.items())
    )
    return f"GET {target} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n{headers}\r\n".encode()


def post(path: str, body: object, headers: str = "") -> bytes:
    """Return a POST request with a JSON body."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n{headers}\r\n"
    )
    return head.encode() + data


class BadAnswer(Exception):
    """A server answered what it should not, or not at all."""


class RequestCycle:
    """One request and its answer. Times are in seconds from the moment the request was sent.

    `first` is when the first token was there, `last` when the answer was whole.
    """

    def __init__(self, keep: bool) -> None:
        self.status = 0
        self.tokens = 0
        self.begin = 0.0
        self.first = math.nan
        self.last = math.nan
        self.kept: bytearray | None = bytearray() if keep else None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def body(self) -> Any:
        """Return the answer's JSON."""
        if self.kept is None or self.status >= 300:
            raise BadAnswer(f"{self.status}: {bytes(self.kept or b'')!r}")
        return json.loads(bytes(self.kept))


class Connection(asyncio.Protocol):
    """A connection that is kept alive: one exchange after the other."""

    def __init__(self) -> None:
        self._exchange: RequestCycle | None = None
        self._head = b""
        self._in_body = False
        self._length: int | None = None
        self._tail = b""
        self.open = True

    @classmethod
    async def to(cls, url: str) -> "Connection":
        """Connect."""
        address = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, address.hostname or "", address.port or 0)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by class

    def send(self, request: bytes, *, keep: bool = False) -> RequestCycle:
        """Send a request; the exchange fills as the answer comes."""
        exchange = self._exchange = RequestCycle(keep)
        self._head, self._in_body, self._length, self._tail = b"", False, None, b""
        exchange.begin = time.perf_counter()
        self._transport.write(request)
        return exchange

    async def ask(self, request: bytes, *, keep: bool = False, seconds: float = 30.0) -> RequestCycle:
        """Send a request and wait for the whole answer; raises `BadAnswer`."""
        exchange = self.send(request, keep=keep)
        try:
            async with asyncio.timeout(seconds):
                await exchange.done
        except TimeoutError:
            raise BadAnswer(f"no answer within {seconds:.0f} s to {request[:200]!r}") from None
        return exchange

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        exchange = self._exchange
        if exchange is None:
            return
        if not self._in_body:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._in_body = True
            exchange.status = int(head[9:12])
            lower = head.lower()
            if b"\r\ncontent-length:" in lower:
                self._length = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            elif exchange.status == 204:
                self._length = 0
        if exchange.kept is not None:
            exchange.kept += data
        tokens = data.count(MARK)
        if tokens:
            if not exchange.tokens:
                exchange.first = now - exchange.begin
                if not exchange.began.done():
                    exchange.began.set_result(None)
            exchange.tokens += tokens
        if self._length is None:
            self._tail = (self._tail + data)[-5:] if len(data) < 5 else data[-5:]
            over = self._tail == b"0\r\n\r\n"
        else:
            self._length -= len(data)
            over = self._length <= 0
        if over:
            self._finish(exchange, now)

    def _finish(self, exchange: RequestCycle, now: float) -> None:
        exchange.last = now - exchange.begin
        self._exchange = None
        if not exchange.done.done():
            exchange.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if (exchange := self._exchange) is not None:
            for future in (exchange.done, exchange.began):
                if not future.done():
                    future.set_exception(BadAnswer(f"the connection broke: {error}"))
                    future.exception()  # nobody may be waiting for it

    def close(self) -> None:
        """Leave."""
        self._exchange = None
        self._transport.abort()


def require(exchanges: Iterable[RequestCycle], *, tokens: int | None = None) -> None:
    """Raise `BadAnswer` unless every answer is a success with so many tokens."""
    for exchange in exchanges:
        if exchange.status >= 300 or (tokens is not None and exchange.tokens != tokens):
            raise BadAnswer(f"status {exchange.status}, {exchange.tokens} tokens instead of {tokens}")


async def ask(url: str, request: bytes, *, keep: bool = True, seconds: float = 30.0) -> RequestCycle:
    """Ask once, on a connection of its own."""
    connection = await Connection.to(url)
    try:
        return await connection.ask(request, keep=keep, seconds=seconds)
    finally:
        connection.close()


async def crowd(url: str, requests: Sequence[bytes], *, at_once: int) -> list[RequestCycle]:
    """Send requests over so many connections, each as soon as the one before is answered."""
    waiting = iter(requests)
    found: list[RequestCycle] = []

    async def one(connection: Connection) -> None:
        for request in waiting:
            found.append(await connection.ask(request, seconds=120))

    connections = [await Connection.to(url) for _ in range(min(at_once, len(requests)))]
    try:
        await asyncio.gather(*(one(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
