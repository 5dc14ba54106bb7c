"""One connection to a real Postgres: what it is asked, what it answers, and how it ends."""

import asyncio
import socket
from collections.abc import AsyncIterator

import psycopg
import pytest

from parley.postgres.connection import Connection
from parley.postgres.pool import Pool
from parley.postgres.prepared import numbered
from tests.client import eventually
from tests.faults.proxy import FaultProxy


@pytest.fixture(params=[False, True], ids=["planned anew", "plans kept"])
async def connection(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    made = await Connection.open(database_url, timeout=2, prepare=request.param)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("statement", "query", "names"),
    [
        ("select 1", "select 1", ()),
        ("select %s, %s", "select $1, $2", ()),
        ("select %(a)s, %(b)s::int, %(a)s", "select $1, $2::int, $1", ("a", "b")),
    ],
)
def test_placeholders_are_numbered(statement: str, query: str, names: tuple[str, ...]) -> None:
    found = numbered(statement)
    assert found[0].decode() == query
    assert found[1] == names


async def test_a_statement_takes_values_of_other_types_the_next_time(connection: Connection) -> None:
    statement = "select %(a)s::text, %(n)s::bigint, %(a)s is null"
    for _ in range(2):
        assert await connection.execute(statement, {"n": 1, "a": "é😀"}) == [("é😀", 1, False)]
        assert await connection.execute(statement, {"n": 2**40, "a": None}) == [(None, 2**40, True)]
        assert await connection.execute(statement, {"n": None, "a": ""}) == [("", None, False)]


async def test_rows_are_many_none_or_not_there(connection: Connection) -> None:
    assert await connection.execute("select n from generate_series(1, %s) n", [3]) == [(1,), (2,), (3,)]
    assert await connection.execute("select 1 where %s", [False]) == []
    assert await connection.execute("create temp table t (x int)") == []
    assert await connection.execute("insert into t values (%s), (2) returning x", [1]) == [(1,), (2,)]


async def test_what_no_buffer_holds_is_sent_and_received(connection: Connection) -> None:
    text = "0123456789abcdef" * (2 << 20)
    [[back]] = await connection.execute("select %s::text", [text])
    assert back == text


async def test_a_mistake_leaves_the_connection_as_it_was(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await connection.execute("select 1 / %s::int", [0])
    with pytest.raises(psycopg.errors.UndefinedTable):
        await connection.execute("select * from unheard_of where a = %s", [0])
    with pytest.raises(UnicodeEncodeError):
        await connection.execute("select %s::text", ["\ud800"])
    with pytest.raises(psycopg.Error):
        await connection.execute("select %s::text", ["\x00"])
    with pytest.raises(psycopg.ProgrammingError):
        await connection.execute("select %s::text", [object()])
    assert await connection.execute("select 1 / %s::int", [1]) == [(1,)]
    assert not connection.closed


async def test_a_value_that_cannot_be_read_is_told(connection: Connection) -> None:
    # Python has no year so late.
    with pytest.raises(psycopg.DataError):
        await connection.execute("select '20000-01-01'::date")
    assert await connection.execute("select 1") == [(1,)]


async def test_a_connection_that_ends_while_nobody_asks_is_seen_to_be_closed(
    connection: Connection, database_url: str
) -> None:
    [[pid]] = await connection.execute("select pg_backend_pid()")
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s, 1000)", [pid])

    async def closed() -> bool:
        return connection.closed

    await eventually(closed)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("select 1")


async def test_a_connection_that_ends_while_it_is_asked_fails_its_asker(
    connection: Connection, database_url: str
) -> None:
    [[pid]] = await connection.execute("select pg_backend_pid()")
    answer = connection.execute("select pg_sleep(5)")
    await asyncio.sleep(0.05)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s, 1000)", [pid])
    with pytest.raises(psycopg.OperationalError):
        await answer


async def test_a_cut_or_a_close_in_the_middle_fails_its_asker(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        for end in (proxy.cut, proxy.reset):
            connection = await Connection.open(proxy.url, timeout=2, prepare=True)
            answer = connection.execute("select pg_sleep(5)")
            await asyncio.sleep(0.05)
            end()
            with pytest.raises(psycopg.OperationalError):
                await answer
            assert connection.closed
        connection = await Connection.open(proxy.url, timeout=2, prepare=True)
        answer = connection.execute("select pg_sleep(5)")
        connection.close()
        connection.close()
        with pytest.raises(psycopg.OperationalError):
            await answer


async def test_a_connection_that_comes_too_late_is_closed(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        proxy.stall()
        opening = asyncio.create_task(Connection.open(proxy.url, timeout=5, prepare=False))
        await eventually(lambda: proxy.open_connections)
        opening.cancel()
        await asyncio.wait({opening})
        assert opening.cancelled()
        await proxy.heal()
        # It is made all the same, for nobody.
        await eventually(lambda: not proxy.open_connections)
        assert proxy.connections == 1
        assert proxy.down.bytes > 0


async def test_a_wrong_number_of_values_is_told(connection: Connection) -> None:
    for arguments in ([], [1, 2]):
        with pytest.raises(psycopg.ProgrammingError):
            await connection.execute("select %s::int", arguments)
    with pytest.raises(KeyError):
        await connection.execute("select %(a)s::int", {"b": 1})
    assert await connection.execute("select %s::int", [1]) == [(1,)]


@pytest.mark.parametrize("statement", ["select %s, %(a)s", "select 5 %% 3", "select 'a%'"])
def test_what_would_be_numbered_wrongly_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="placeholders"):
        numbered(statement)


async def test_one_statement_at_a_time(connection: Connection) -> None:
    answer = connection.execute("select pg_sleep(0.05)")
    with pytest.raises(RuntimeError):
        connection.execute("select 1")
    await answer


async def test_no_answer_of_a_statement_is_kept(connection: Connection) -> None:
    await connection.execute("select repeat('x', %s)", [1 << 20])
    for statement in connection._cache._statements.values():
        assert statement.transformer.pgresult is None


async def test_a_copy_closes_the_connection(connection: Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(connection.execute("copy (select 1) to stdout"), 30)
    assert connection.closed


@pytest.mark.parametrize(
    "lie",
    [
        b"\x01\xff\xff\xff\xff garbage garbage",  # no message of the protocol
        b"H\x00\x00\x00\x07\x00\x00\x00",  # "copy this"
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_a_server_that_talks_nonsense_loses_its_connection_and_nothing_else(
    database_url: str, lie: bytes
) -> None:
    async with FaultProxy(database_url) as proxy:
        connections = Pool(proxy.url, size=1, timeout=1)
        [[before]] = await connections.run("select pg_backend_pid()")
        [connection] = connections._idle
        proxy.lie(proxy.down, lie)
        [[after]] = await connections.run("select pg_backend_pid()")
        assert connection.closed
        assert before != after
        # Its number is free: whoever gets it next is heard.
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.send(b"hello")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(here, 5), 30) == b"hello"
        for number in range(3):
            assert await connections.run("select %s::int", [number]) == [(number,)]
        await connections.close()


async def test_a_cut_while_much_is_being_sent(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        connection = await Connection.open(proxy.url, timeout=2, prepare=False)
        proxy.stall()
        answer = connection.execute("select length(%s)", ["x" * (32 << 20)])
        await asyncio.sleep(0.1)
        assert not answer.done()
        proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            await answer
        assert connection.closed
