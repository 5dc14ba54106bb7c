"""A TCP proxy on loopback that breaks connections on demand, for the faults that no peer makes by itself.

    async with FaultProxy(world.fake.url) as proxy:
        server = world.server(OPENAI_BASE_URL=f"{proxy.url}/v1")
        ...
        proxy.reset()

It lives in the test's event loop, so a test that blocks the loop blocks the proxy too.
"""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65536


@dataclass
class Way:
    """One direction, for all connections: what is held back, delayed or damaged there."""

    latency: float = 0.0
    corrupt: bool = False
    instead: bytes | None = None
    bytes: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()


class _Link:
    """A client's connection and the one made for it."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.silent = False

    def close(self, *, reset: bool) -> None:
        for writer in self.writers:
            if reset:
                sock = writer.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    # Linger 0 makes the close a reset (RFC 9293, 3.10.5) instead of a graceful end.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class FaultProxy:
    """Forwards to the host and port of `target`; an async context manager. `url` is `target` through it.

    Faults hold for present and future connections until `heal`, but for `cut`, `reset` and `half_open`,
    whose connections are lost for good. `up` is towards the target, `down` towards the client.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent = False
        self.port = 0
        self.connections = 0
        self.up = Way()
        self.down = Way()

    @property
    def url(self) -> str:
        """The target's URL, by way of this proxy."""
        login, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self._links)

    async def __aenter__(self) -> "FaultProxy":
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Accept connections, at the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; present ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def delay(self, seconds: float) -> None:
        """Hold everything back for so long, each way."""
        self.up.latency = self.down.latency = seconds

    def stall(self, *ways: Way) -> None:
        """Take connections but forward nothing, either way or in these; `heal` delivers what was held."""
        for way in ways or (self.up, self.down):
            way.open.clear()

    def corrupt(self, way: Way) -> None:
        """Flip the bits of a random byte of whatever is forwarded together."""
        way.corrupt = True

    def lie(self, way: Way, instead: bytes) -> None:
        """Forward these bytes, once, instead of those that come next."""
        way.instead = instead

    def half_open(self) -> None:
        """Lose what is sent without a sign, closes too: the other side's machine went away."""
        self._silent = True
        for link in self._links:
            link.silent = True

    def cut(self) -> None:
        """Close every present connection in good order."""
        self._close(reset=False)

    def reset(self) -> None:
        """Reset every present connection."""
        self._close(reset=True)

    async def heal(self) -> None:
        """Forward as if nothing had been."""
        self._silent = False
        self.delay(0.0)
        for way in (self.up, self.down):
            way.corrupt = False
            way.open.set()
        await self.listen()

    def _close(self, *, reset: bool) -> None:
        for link in list(self._links):
            link.close(reset=reset)
        self._links.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link([writer])
        link.silent = self._silent
        self._links.add(link)
        self.connections += 1
        try:
            await self._serve(link, reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy is closing
        finally:
            link.close(reset=False)
            self._links.discard(link)
            self._tasks.discard(task)

    async def _serve(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            link.close(reset=True)
            return
        link.writers.append(forth)
        ways = [
            asyncio.create_task(self._forward(link, self.up, reader, forth)),
            asyncio.create_task(self._forward(link, self.down, back, writer)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()

    async def _forward(
        self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if way.latency:
                    await asyncio.sleep(way.latency)
                await way.open.wait()
                if link.silent:
                    continue
                if way.instead is not None:
                    data, way.instead = way.instead, None
                if way.corrupt:
                    place = random.randrange(len(data))
                    data = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
                way.bytes += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            if not link.silent:
                link.close(reset=True)
        if link.silent:
            await asyncio.Event().wait()
        await way.open.wait()
        with suppress(OSError, RuntimeError):
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
