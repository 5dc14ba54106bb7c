"""A network between the browser and a server, that fails on demand."""

import asyncio
import contextlib
import json
from typing import Any, Self


class Wire:
    """Forwards TCP to a server from an address that stays, whatever becomes of the server.

    `answer` is sent to what asks for a path that contains `answer_path` in place of the server's, for
    as long as it is set; with `answer_stays`, its connection stays open after it until `cut`. `down`
    hangs up on everybody.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.down = False
        self.answer: bytes | None = None
        self.answer_path = b"/api/chat/stream"
        self.answer_stays = False
        self.answered = 0
        self.answered_at: list[float] = []
        self.asked: list[bytes] = []
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections, without a word."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def asked_for(self, path: bytes) -> int:
        """Return how many requests named this path."""
        return sum(path in line for line in self.asked)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, which is one request: `Connection: close` is put into its head."""
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            self.asked.append(line)
            if self.down:
                return
            if self.answer is not None and self.answer_path in line:
                self.answered += 1
                self.answered_at.append(asyncio.get_running_loop().time())
                writer.write(self.answer)
                await writer.drain()
                if self.answer_stays:
                    await reader.read()
                return
            kept = [name for name in rest.split(b"\r\n") if not name.lower().startswith(b"connection:")]
            await self._forward(reader, writer, b"\r\n".join([line, b"Connection: close", *kept]))
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        host, _, port = self.target.removeprefix("http://").rpartition(":")
        there, upstream = await asyncio.open_connection(host, int(port))
        self._writers.add(upstream)
        upstream.write(head)
        sending = asyncio.ensure_future(_copy(reader, upstream))
        try:
            await _copy(there, writer)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._writers.discard(upstream)
            upstream.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def response(status: str, body: str = "", *headers: str) -> bytes:
    """Return an HTTP response in one piece."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


def stream(*frames: dict[str, Any]) -> bytes:
    """Return an event stream of these frames, without ids, that ends with its connection."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return "".join([head, *(f"data: {json.dumps(frame)}\n\n" for frame in frames)]).encode()
