"""A stand-in for PgBouncer in transaction mode: a client has a session of the server for one transaction."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_ENCRYPTION = (80877103, 80877104)
# What a simple query, a batch and a function call each end with, one ReadyForQuery.
_ASKS_FOR_READY = b"QSF"


@dataclass
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Pooler:
    """Sessions are given out in turn, so that the next transaction of a client is in another one.

    What a session was left with, a lock, a setting or a prepared statement, stays in it. The clients log in
    to the server themselves, until `sessions` are open; later ones are let in unasked.
    """

    database_url: str
    sessions: int = 2
    clients: int = 100
    refused: int = 0
    _free: "asyncio.Queue[_Session]" = field(default_factory=asyncio.Queue)
    _opened: list[_Session] = field(default_factory=list)
    _greeting: bytes = b""
    _connected: int = 0
    _port: int = 0

    @property
    def url(self) -> str:
        at = urlsplit(self.database_url)
        return self.database_url.replace(f":{at.port}/", f":{self._port}/")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Pooler"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
        for session in self._opened:
            session.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Session(reader, writer)
        self._connected += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                if await self._let_in(client):
                    await self._relay(client)
        finally:
            self._connected -= 1
            writer.close()

    async def _let_in(self, client: _Session) -> bool:
        while True:
            (length,) = struct.unpack("!I", head := await client.reader.readexactly(4))
            body = await client.reader.readexactly(length - 4)
            if struct.unpack("!I", body[:4])[0] not in _ENCRYPTION:
                break
            client.writer.write(b"N")
        if self._connected > self.clients:
            self.refused += 1
            said = b"SFATAL\0C08P01\0Mno more connections allowed (max_client_conn)\0\0"
            client.writer.write(b"E" + struct.pack("!I", len(said) + 4) + said)
            await client.writer.drain()
            return False
        if len(self._opened) < self.sessions:
            await self._log_in(client, head + body)
        else:
            client.writer.write(self._greeting)
        return True

    async def _log_in(self, client: _Session, startup: bytes) -> None:
        at = urlsplit(self.database_url)
        session = _Session(*await asyncio.open_connection(at.hostname, at.port))
        self._opened.append(session)
        session.writer.write(startup)
        greeting = b""
        while True:
            kind, message = await _message(session.reader)
            client.writer.write(message)
            # AuthenticationOk is 0; 10 and 11 are SASL's questions, and 12 its end.
            code = int.from_bytes(message[5:9]) if kind == b"R" else 0
            if code == 0:
                greeting += message
            elif code in (10, 11):
                session.writer.write((await _message(client.reader))[1])
            if kind == b"Z":
                self._greeting = greeting
                self._free.put_nowait(session)
                return

    async def _relay(self, client: _Session) -> None:
        session: _Session | None = None
        answers: asyncio.Task[None] | None = None
        awaited, whole = 0, True

        async def answer(of: _Session) -> None:
            nonlocal session, awaited
            while True:
                kind, message = await _message(of.reader)
                client.writer.write(message)
                awaited -= kind == b"Z"
                if kind == b"Z" and message[5:6] == b"I" and whole and not awaited:
                    session = None
                    self._free.put_nowait(of)
                    return

        try:
            while True:
                kind, message = await _message(client.reader)
                if kind == b"X":
                    return
                if session is None:
                    session = await self._free.get()
                    answers = asyncio.create_task(answer(session))
                whole = kind in _ASKS_FOR_READY
                awaited += whole
                session.writer.write(message)
        finally:
            if session is not None and answers is not None:
                answers.cancel()
                self._opened.remove(session)
                session.writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)
