"""One connection for all commands: every answer finds its command, whatever happens in between."""

import asyncio
import contextlib
import gc
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from parley.valkey.client import ErrorReply, PipelinedClient, ServerFault
from tests.certificates import certificate_for_localhost
from tests.faults.proxy import FaultProxy

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[PipelinedClient]:
    client = PipelinedClient(valkey_url, timeout=20)
    yield client
    await client.close()


@contextlib.asynccontextmanager
async def closing(client: PipelinedClient) -> AsyncIterator[PipelinedClient]:
    """Close the client also where the test fails: uvloop waits for whatever is left open."""
    try:
        yield client
    finally:
        await client.close()


async def fake(answer: Answerer, context: ssl.SSLContext | None = None) -> tuple[asyncio.Server, str]:
    """Serve a stand-in for Valkey; return it with its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    return server, "{}:{}".format(*server.sockets[0].getsockname())


async def test_answers_come_in_order(client: PipelinedClient) -> None:
    answers = await client.send([("ECHO", "a"), ("ECHO", b"\0\r\n"), ("GET", "no such key"), ("ECHO", 7)])
    assert answers == [b"a", b"\0\r\n", None, b"7"]
    assert await client.send([]) == []


async def test_many_callers_share_the_connection(client: PipelinedClient) -> None:
    [own] = await client.send([("CLIENT", "ID")])
    numbers = [f"number {number}" for number in range(500)]
    answers = await asyncio.gather(*(client.send([("ECHO", number), ("CLIENT", "ID")]) for number in numbers))
    assert answers == [[number.encode(), own] for number in numbers]


async def test_43_an_answer_whose_caller_is_gone_reaches_nobody_else(client: PipelinedClient) -> None:
    for number in range(100):
        calls = [asyncio.create_task(client.send([("ECHO", f"{number}/{place}")])) for place in range(5)]
        await asyncio.sleep(number * 0.00002)
        for call in calls[::2]:
            call.cancel()
        for place, result in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            if not isinstance(result, asyncio.CancelledError):
                assert result == [f"{number}/{place}".encode()]


async def test_a_refusal_is_an_answer_and_quotes_nothing(client: PipelinedClient) -> None:
    await client.send([("SET", "text", "secret words")])
    answers = await client.send(
        [("LPUSH", "text", "secret words"), ("ECHO", "fine"), ("NOSUCH", "secret words")]
    )
    assert [getattr(answer, "code", answer) for answer in answers] == ["WRONGTYPE", b"fine", "ERR"]
    assert isinstance(answers[0], ErrorReply)
    assert "secret" not in str(answers[2])


async def test_40_a_server_that_refuses_is_left_for_the_one_that_took_its_place() -> None:
    greeted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        text = b"-READONLY You can't write against a replica\r\n" if greeted == 1 else b"+OK\r\n"
        while await reader.read(1000):
            writer.write(text)

    server, address = await fake(answer)
    async with server:
        client = PipelinedClient(f"redis://{address}", timeout=1)
        with pytest.raises(ServerFault):
            await client.send([("SET", "a", 1)])
        assert await client.send([("SET", "a", 1)]) == [b"OK"]
        assert greeted == 2
        await client.close()


async def test_a_greeting_that_nobody_answers_leaves_no_connection() -> None:
    left = asyncio.Semaphore(0)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
            await reader.read()
        left.release()

    server, address = await fake(say_nothing)
    async with server:
        client = PipelinedClient(f"redis://:secret@{address}", timeout=0.05)
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await client.send([("ECHO", "?")])
        async with asyncio.timeout(30):
            for _ in range(5):
                await left.acquire()
        await client.close()


@pytest.mark.parametrize("code", ["OOM", "READONLY", "LOADING", "CLUSTERDOWN", "MISCONF"])
async def test_40_a_refusal_of_everything_is_a_fault(code: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"-%b secret words\r\n" % code.encode())

    server, address = await fake(refuse)
    async with server:
        client = PipelinedClient(f"redis://{address}", timeout=1)
        with pytest.raises(ServerFault) as caught:
            await client.send([("SET", "a", 1)])
        assert (caught.value.code, str(caught.value)) == (code, code)
        await client.close()


async def test_a_connection_that_was_closed_is_replaced_unseen(valkey_url: str) -> None:
    async with FaultProxy(valkey_url) as proxy:
        client = PipelinedClient(proxy.url, timeout=20)
        for how in (proxy.reset, proxy.cut):
            assert await client.send([("ECHO", "before")]) == [b"before"]
            how()
            await proxy.heal()
            assert await client.send([("ECHO", "after")]) == [b"after"]
        await client.close()


async def test_40_a_silent_server_costs_one_timeout_for_all() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server, address = await fake(say_nothing)
    async with server:
        client = PipelinedClient(f"redis://{address}", timeout=0.2)
        calls = [asyncio.create_task(client.send([("ECHO", "?")])) for _ in range(10)]
        await asyncio.sleep(0.1)
        calls += [asyncio.create_task(client.send([("ECHO", "?")])) for _ in range(10)]
        # Those who came later wait no longer than the first.
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(5):
            await asyncio.sleep(0)
        assert all(call.done() for call in calls)
        assert {type(call.exception()) for call in calls} == {TimeoutError}
        await client.close()


async def test_an_answer_that_came_in_time_is_never_late(client: PipelinedClient) -> None:
    await client.send([("ECHO", "connect")])
    quick = PipelinedClient.__new__(PipelinedClient)
    quick.__dict__.update(client.__dict__, _timeout=0.05)
    call = asyncio.create_task(quick.send([("ECHO", "in time")]))
    await asyncio.sleep(0)
    # The process is busy until long after the deadline; the answer lies in the socket meanwhile.
    begin = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - begin < 0.2:
        pass
    assert await call == [b"in time"]


@pytest.mark.parametrize("nonsense", [b"!\r\n", b"*-7\r\n", b":1\r\n:2\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_40_nonsense_is_a_lost_connection(nonsense: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(nonsense)

    server, address = await fake(talk)
    async with server:
        client = PipelinedClient(f"redis://{address}", timeout=1)
        for _ in range(2):
            try:
                assert await client.send([("ECHO", "?")]) == [1]
            except ConnectionError:
                continue
        await client.close()


async def test_signs_in_and_selects_a_database(valkey_url: str, client: PipelinedClient) -> None:
    # A user of its own: other tests share the server.
    user = f"user-{uuid.uuid4()}"
    await client.send([("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all")])
    host = valkey_url.partition("://")[2].rpartition("@")[2].partition("/")[0]
    signed_in = PipelinedClient(f"redis://{user}:secret@{host}/3", timeout=20)
    async with closing(signed_in):
        name, told = await signed_in.send([("ACL", "WHOAMI"), ("CLIENT", "INFO")])
        assert name == user.encode()
        assert b" db=3 " in told
    wrong = ((f"redis://{user}:wrong@{host}", "WRONGPASS"), (f"redis://{user}:secret@{host}/99", "ERR"))
    for url, code in wrong:
        async with closing(PipelinedClient(url, timeout=20)) as refused:
            with pytest.raises(ServerFault) as caught:
                await refused.send([("ECHO", "?")])
            assert caught.value.code == code
    await client.send([("ACL", "DELUSER", user)])


async def test_speaks_tls_and_checks_who_answers(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"+PONG\r\n")

    file = certificate_for_localhost(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    server, address = await fake(answer, context)
    port = address.rpartition(":")[2]
    async with server:
        trusting = PipelinedClient(f"rediss://localhost:{port}?ssl_ca_certs={file}", timeout=2)
        assert await trusting.send([("PING",)]) == [b"PONG"]
        await trusting.close()
        wary = PipelinedClient(f"rediss://localhost:{port}", timeout=2)
        with pytest.raises(OSError, match="certificate"):
            await wary.send([("PING",)])
        await wary.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_of_an_earlier_event_loop_is_left_alone(valkey_url: str) -> None:
    client = PipelinedClient(valkey_url, timeout=20)

    async def ask(*, last: bool) -> list[bytes]:
        answers = await client.send([("ECHO", "here")])
        if last:
            await client.close()
        return answers

    assert asyncio.run(ask(last=False)) == [b"here"]
    assert asyncio.run(ask(last=True)) == [b"here"]
    gc.collect()  # the earlier connection's warning belongs to this test
