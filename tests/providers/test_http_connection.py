"""Connections to providers, against servers that say exactly what a test wants."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httptools
import pytest

from local.fake_provider import FakeProvider, Script
from local.fake_provider.script import Fault
from parley.providers import http_connection as provider_wire
from parley.providers.http_connection import ConnectionPool, Origin
from parley.providers.http_response import Answer, Disconnected
from tests.client import eventually
from tests.providers.tls import Deaf

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: provider\r\ncontent-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


class Server:
    """Answers each question with what it is told to say, whatever was asked."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.says: list[bytes | None] = []
        self.place = Origin("", 0, False)
        self._serving: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """Close every connection."""
        for task in self._serving:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.heard.append(head + await reader.readexactly(length))
                for part in self.says:
                    if part is None:
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._serving.discard(task)
            writer.transport.abort()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        made.place = Origin(host, port, False)
        yield made
        made.end()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(context: ssl.SSLContext | None = None) -> AsyncIterator[ConnectionPool]:
    pool = ConnectionPool(context or ssl.create_default_context())
    yield pool
    await pool.close()


async def all_of(answer: Answer) -> bytes:
    parts = []
    while part := await answer.read():
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("says", "body"),
    [
        ([OK + b"content-length: 5\r\n\r\nhello"], b"hello"),
        ([OK + b"content-length: 0\r\n\r\n"], b""),
        ([OK + b"content-length: 5\r\n\r\n", b"he", b"llo"], b"hello"),
        ([OK + CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"], b"hello"),
        ([OK + CHUNKED + b"2", b"\r\nh", b"e\r", b"\n3;x=y\r\nllo\r\n0\r\nt: r\r\n\r\n"], b"hello"),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", OK + b"content-length: 5\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello"], b"hello"),
        ([OK + b"\r\n", b"he", b"llo", None], b"hello"),
        ([b"HTTP/1.0 200 OK\r\n\r\nhe", b"llo", None], b"hello"),
        ([OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
    ],
)  # fmt: skip
async def test_answers_of_every_form_are_read(server: Server, says: list[bytes | None], body: bytes) -> None:
    server.says = says
    async with opened() as pool:
        for number in range(3):
            answer = await pool.send(server.place, HEAD, b"%d" % number)
            assert answer.status_code in (200, 204)
            assert await all_of(answer) == body
            assert await answer.read() == b""
            answer.close()
    assert server.heard == [HEAD + b"content-length: 1\r\n\r\n%d" % number for number in range(3)]
    last = says[-1] is None or b"connection: close" in (says[0] or b"")
    assert server.connections == (3 if last else 1)


@pytest.mark.parametrize(
    "says",
    [
        [None],
        [b"HTTP/1.1 200 O", None],
        [OK, None],
        [OK + b"content-length: 5\r\n\r\nhell", None],
        [OK + CHUNKED + b"5\r\nhello\r\n", None],
    ],
)
async def test_a_cut_answer_is_an_error(server: Server, says: list[bytes | None]) -> None:
    server.says = says
    async with opened() as pool:
        with pytest.raises(Disconnected):
            await all_of(await pool.send(server.place, HEAD, b""))


@pytest.mark.parametrize(
    "says",
    [
        [b"SSH-2.0-OpenSSH\r\n"],
        [OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
        [OK + CHUNKED + b"nonsense\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
        [OK + b"x: " + b"y" * 70_000],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 3 + [OK + b"x: y\r\n" * 12_000],
    ],
)
async def test_nonsense_is_an_error_and_ends_the_connection(server: Server, says: list[bytes | None]) -> None:
    server.says = says
    async with opened() as pool:
        with pytest.raises((httptools.HttpParserError, ValueError)):
            await all_of(await pool.send(server.place, HEAD, b""))
        await eventually(lambda: not server.open)


async def test_what_came_before_an_error_is_read_first(server: Server) -> None:
    server.says = [OK + CHUNKED + b"2\r\nhe\r\nnonsense\r\n"]
    async with opened() as pool:
        answer = await pool.send(server.place, HEAD, b"")
        assert await answer.read() == b"he"
        with pytest.raises(httptools.HttpParserError):
            await answer.read()


async def test_an_answer_to_no_question_ends_the_connection(server: Server) -> None:
    server.says = [OK + b"content-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nand"]
    async with opened() as pool:
        assert await all_of(await pool.send(server.place, HEAD, b"")) == b""
        await eventually(lambda: not server.open)
        server.says = [OK + b"content-length: 5\r\n\r\nhello"]
        assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"
    assert server.connections == 2


async def test_an_answer_begun_with_the_end_of_the_right_one_is_nobody_s(server: Server) -> None:
    foreign = b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 100
    server.says = [OK + b"content-length: 5\r\n\r\nhello" + foreign]
    async with opened() as pool:
        for _ in range(3):
            assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"
    assert server.connections == 3


@pytest.mark.parametrize(
    "says",
    [
        [b"HTTP/1.1 200 OK\ncontent-type: text/event-stream\ncontent-length: 5\n\nhello"],
        [b"HTTP/1.1 200\r\nx: a\r\n b\r\ncontent-length: 5\r\n\r\nhello"],
        [OK + b"x: \x01\r\ncontent-length: 5\r\n\r\nhello"],
        [OK + CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n"],
    ],
)
async def test_what_servers_at_home_write_is_read(server: Server, says: list[bytes | None]) -> None:
    server.says = says
    async with opened() as pool:
        assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"


async def test_a_cancelled_connect_leaves_nothing_open(server: Server) -> None:
    async with opened() as pool:
        for turns in range(60):
            task = asyncio.create_task(pool.send(server.place, HEAD, b""))
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        async def none() -> bool:
            return server.open == 0

        await eventually(none)


async def test_a_connection_that_was_closed_meanwhile_is_not_used(server: Server) -> None:
    server.says = [OK + b"content-length: 5\r\n\r\nhello", b"", None]
    async with opened() as pool:
        for _ in range(2):
            assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"
            await eventually(lambda: not server.open)
            # The close is on its way to the pool, in this same event loop.
            for _ in range(5):
                await asyncio.sleep(0)
    assert server.connections == 2


async def test_many_at_once_have_connections_of_their_own(server: Server) -> None:
    server.says = [OK + b"content-length: 5\r\n\r\n", b"he", b"llo"]
    async with opened() as pool:
        for _ in range(2):
            answers = await asyncio.gather(*(pool.send(server.place, HEAD, b"") for _ in range(5)))
            assert await asyncio.gather(*map(all_of, answers)) == [b"hello"] * 5
        assert server.connections == 5
    await eventually(lambda: not server.open)


async def test_a_connection_does_not_idle_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_wire, "KEEPALIVE_SECONDS", 0.1)
    server.says = [OK + b"content-length: 5\r\n\r\nhello"]
    async with opened() as pool:
        assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"
        assert server.connections == 1
        await eventually(lambda: not server.open)


async def test_a_reader_that_is_late_has_the_provider_wait(server: Server) -> None:
    part = b"x" * (1 << 16)
    server.says = [OK + b"content-length: %d\r\n\r\n" % (len(part) * 200), *[part] * 200]
    async with opened() as pool:
        answer = await pool.send(server.place, HEAD, b"")
        await asyncio.sleep(0.5)
        assert answer._size < len(part) * 100
        assert len(await all_of(answer)) == len(part) * 200
        # And the next question is answered as ever.
        server.says = [OK + b"content-length: 5\r\n\r\nhello"]
        assert await all_of(await pool.send(server.place, HEAD, b"")) == b"hello"
    assert server.connections == 1


async def test_a_body_that_fills_every_buffer_is_sent(server: Server) -> None:
    server.says = [OK + b"content-length: 5\r\n\r\nhello"]
    body = b"0123456789abcdef" * (1 << 19)
    async with opened() as pool:
        assert await all_of(await pool.send(server.place, HEAD, body)) == b"hello"
    assert server.heard[0].endswith(body)


async def test_a_refused_connection_is_an_error() -> None:
    async with opened() as pool:
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await pool.send(Origin("127.0.0.1", 1, False), HEAD, b"")


async def test_who_does_not_take_the_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_wire, "CONNECT_SECONDS", 0.2)

    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()
        left.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        async with opened() as pool:
            with pytest.raises(TimeoutError):
                # It never says hello by TLS.
                await pool.send(Origin(host, port, True), HEAD, b"")
            await asyncio.wait_for(left.wait(), 30)
            await asyncio.sleep(0)


async def test_an_address_where_nobody_answers_does_not_take_all_the_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its queue is full, so what else knocks there hears nothing.
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    full = socket.create_server(("127.0.0.2", port), backlog=0)
    waiting = []
    for _ in range(3):
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(("127.0.0.2", port))
    hosts = ["127.0.0.2", "127.0.0.1"]

    async def resolved(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    async def addresses(_: Origin) -> list[str]:
        return hosts

    monkeypatch.setattr(provider_wire, "_TURN_SECONDS", 0.3)
    monkeypatch.setattr(provider_wire, "_addresses", addresses)
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):
        monkeypatch.setattr(loop, "getaddrinfo", resolved)
    try:
        async with opened() as pool:
            server.says = [OK + b"content-length: 5\r\n\r\nhello"]
            assert await all_of(await pool.send(Origin("two.test", port, False), HEAD, b"")) == b"hello"
    finally:
        listening.close()
        for sock in (full, *waiting):
            sock.close()


QUESTION = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'


async def test_over_tls_it_reads_to_the_end_and_keeps_the_connection(
    secure: FakeProvider, certificate: Path
) -> None:
    async with opened(ssl.create_default_context(cafile=str(certificate))) as pool:
        for _ in range(3):
            answer = await pool.send(Origin("localhost", secure.port, True), HEAD, QUESTION)
            assert (await all_of(answer)).endswith(b"[DONE]\n\n")
    assert secure.stats.connections == 1


@pytest.mark.parametrize("fault", ["stall", "silence"])
async def test_over_tls_a_cancelled_question_ends_its_connection_at_once(
    secure: FakeProvider, certificate: Path, fault: Fault
) -> None:
    secure.script("m", Script(fault=fault, fault_after=1))

    async def ask(pool: ConnectionPool, port: int) -> None:
        answer = await pool.send(Origin("localhost", port, True), HEAD, QUESTION)
        try:
            await all_of(answer)
        finally:
            await answer.aclose()

    context = ssl.create_default_context(cafile=str(certificate))
    async with opened(context) as pool, Deaf(secure.port) as deaf:
        task = asyncio.create_task(ask(pool, deaf.port))
        await secure.until(lambda: secure.stats.active == 1, timeout=30)
        await asyncio.sleep(0.05)
        deaf.heeds = False
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # TLS would wait half a minute for its goodbye.
        await asyncio.wait_for(deaf.left.wait(), 15)


async def test_a_certificate_of_a_stranger_is_distrusted(secure: FakeProvider) -> None:
    async with opened() as pool:
        with pytest.raises(ssl.SSLCertVerificationError):
            await pool.send(Origin("localhost", secure.port, True), HEAD, QUESTION)
    assert secure.stats.calls == 0
