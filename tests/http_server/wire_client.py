"""The connections under test on a loopback socket, and a client that says and hears what a test wants."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from parley.http_server.protocol import HttpProtocol
from parley.http_server.security_headers import HEADERS
from parley.http_server.stream_protocol import OnComplete
from parley.support.encoding import from_json

Header = tuple[bytes, bytes]
# So long anything may take that is to happen at all.
PATIENCE = 30.0


class Client:
    """One connection to the server. It reads only when it is asked to."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self.sent = 0
        self.port: int = connected.getsockname()[1]

    async def say(self, data: bytes) -> None:
        """Send it; waits while the server does not read."""
        view = memoryview(data)
        while view:
            try:
                count = self._socket.send(view)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            else:
                self.sent += count
                view = view[count:]

    async def say_in_packets(self, packets: Iterable[bytes]) -> None:
        """Send each so that the server reads it before the next one is there."""
        for packet in packets:
            await self.say(packet)
            await turns()

    async def hear(self, count: int) -> bytes:
        """Return the next so many bytes, or fewer if the connection ends before."""
        async with asyncio.timeout(PATIENCE):
            while len(self._heard) < count and (data := await self._loop.sock_recv(self._socket, 1 << 16)):
                self._heard += data
        heard, self._heard = self._heard[:count], self._heard[count:]
        return heard

    async def hears(self, expected: bytes) -> None:
        """Assert that this comes next."""
        try:
            heard = await self.hear(len(expected))
        except TimeoutError:
            heard, self._heard = self._heard, b""
        assert heard == expected

    async def packet(self) -> bytes:
        """Return what comes next, as far as it comes together."""
        assert not self._heard
        async with asyncio.timeout(PATIENCE):
            return await self._loop.sock_recv(self._socket, 1 << 20)

    async def rest(self) -> bytes:
        """Return all that comes until the server ends the connection, in whichever way."""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                while data := await self._loop.sock_recv(self._socket, 1 << 16):
                    self._heard += data
        heard, self._heard = self._heard, b""
        return heard

    async def closed(self) -> None:
        """Assert that nothing more comes and the connection ends."""
        assert await self.rest() == b""

    async def silent(self, seconds: float = 0.05) -> None:
        """Assert that nothing comes for so long, and that the connection stays."""
        assert not self._heard
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                data = await self._loop.sock_recv(self._socket, 1 << 16)
                raise AssertionError(f"{data!r} came")

    def writes(self) -> int:
        """Return how often the server has written so far, if what it wrote was short and heard at once.

        Each is a segment on the loopback device (Linux: `tcpi_data_segs_in`, 152 bytes into `tcp_info`).
        """
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
        return int.from_bytes(info[152:156], sys.byteorder)

    def finish(self) -> None:
        """Close the connection politely."""
        self._socket.close()

    def leave(self) -> None:
        """End the connection at once, as a process that is killed does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class Served:
    """A server; everything that goes wrong outside of an application is in `errors`."""

    def __init__(self, state: ServerState, port: int, *, narrow: bool) -> None:
        self.state = state
        self.port = port
        self.errors: list[dict[str, Any]] = []
        self._narrow = narrow
        self._clients: list[Client] = []

    async def client(self) -> Client:
        """Return another client."""
        connected = socket.socket()
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._narrow:
            narrow(connected)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", self.port))
        self._clients.append(Client(connected))
        return self._clients[-1]

    async def until_idle(self) -> None:
        """Wait until no connection and no task is left."""
        await eventually(lambda: not self.state.connections and not self.state.tasks)

    def shutdown(self) -> None:
        """Do to the connections what uvicorn does before it stops."""
        for connection in list(self.state.connections):
            connection.shutdown()

    def leave(self) -> None:
        """Close every client."""
        for client in self._clients:
            client.finish()


def narrow(one: socket.socket) -> None:
    """Let the kernel hold little of what is under way."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)


@asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    idle: float = 30.0,
    thin: bool = False,
) -> AsyncIterator[Served]:
    """Serve; `thin` has the kernel hold little. At the end nothing may be left or have gone wrong."""
    options: dict[str, Any] = {"timeout_keep_alive": idle}
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        **options,
    )
    config.load()
    state = ServerState()
    listening = socket.socket()
    if thin:
        narrow(listening)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    loop = asyncio.get_running_loop()
    served = Served(state, listening.getsockname()[1], narrow=thin)
    loop.set_exception_handler(lambda _, context: served.errors.append(context))

    def connection() -> HttpProtocol:
        return HttpProtocol(config=config, server_state=state, app_state={})

    server = await loop.create_server(connection, sock=listening)
    try:
        yield served
        served.leave()
        await served.until_idle()
        assert served.errors == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        server.close()
        served.leave()
        for task in state.tasks:
            task.cancel()
        for left in cast("set[HttpProtocol]", set(state.connections)):
            left.give_up()
        await turns()


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


async def turns(count: int = 4) -> None:
    """Let everybody have a turn who has something to do now."""
    for _ in range(count):
        await asyncio.sleep(0)


class Source:
    """Something to stream: what a test puts in."""

    def __init__(self, *pieces: bytes, ends: bool = False) -> None:
        """`ends` says that nothing will follow these pieces."""
        self._pieces = list(pieces)
        self._ends = ends
        self._wake: Callable[[], object] | None = None
        self.takes = 0
        self.begun = False
        self.left = False
        self.over = False
        self.whole = False

    def begin(self, wake: Callable[[], object]) -> None:
        """Have it woken at once, if there is something already."""
        assert not self.begun
        self.begun = True
        self._wake = wake
        if self._pieces or self._ends:
            asyncio.get_running_loop().call_soon(wake)

    def put(self, *pieces: bytes, ends: bool = False) -> None:
        """Have more to stream."""
        self._pieces += pieces
        self._ends = self._ends or ends
        assert self._wake is not None
        self._wake()

    def take(self) -> bytes:
        """Return all there is."""
        assert not self.left
        self.takes += 1
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self.over = self.whole = self._ends
        if self.over:
            self._wake = None
        return taken

    def leave(self) -> None:
        """Take note."""
        self.left = True
        self.over = True


async def start(send: Send, *headers: Header, status: int = 200) -> None:
    """Begin an answer."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def piece(send: Send, body: bytes, *, more: bool = False) -> None:
    """Send a part of an answer's body; the last one, unless there is more."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer(send: Send, body: bytes) -> None:
    """Answer with a body of known length."""
    await start(send, (b"content-length", b"%d" % len(body)))
    await piece(send, body)


def answered(body: bytes) -> bytes:
    """Return what a client hears of that."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def body_of(receive: Receive) -> bytes:
    """Return a request's body."""
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was asked."""
    body = await body_of(receive)
    await answer(send, b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], body))


# What most tests say, and hear.

GET = b"GET / HTTP/1.1\r\nhost: parley\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: parley\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
ECHOED = answered(b"GET / ")


async def hello(_: Scope, __: Receive, send: Send) -> None:
    """Answer without a look at what was asked."""
    await answer(send, b"hello")


HELLO = answered(b"hello")


def refused(said: bytes, status: int, code: str) -> None:
    """Assert that this is a refusal and nothing else, after which the connection is closed."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), said
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    assert set(HEADERS) <= set(headers)
    assert (b"content-type", b"application/json") in headers
    assert (b"content-length", b"%d" % len(body)) in headers
    assert headers.count((b"connection", b"close")) == 1
    error = from_json(body)["error"]
    assert (error["code"], error["retryable"]) == (code, status >= 500)
    assert error["message"]


SIZE = 700_000
BIG = bytes(range(256)) * (SIZE // 256)


def streaming(source: Source, on_complete: OnComplete | None = None, *headers: Header) -> ASGIApp:
    """Return an application that has its connection stream; `/` is answered as ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await echo(scope, receive, send)
        else:
            await start(send, (b"x", b"y"), *headers)
            scope["extensions"]["parley.stream"](source, on_complete)

    return app


STREAM = b"GET /stream HTTP/1.1\r\nhost: parley\r\n\r\n"
STREAMED = OK + b"x: y\r\ntransfer-encoding: chunked\r\n\r\n"
