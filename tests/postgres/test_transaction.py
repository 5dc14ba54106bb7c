"""Transactions on one connection to a real Postgres: read, decide, write; whole or not at all."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from parley.postgres.batch import Query
from parley.postgres.connection import Connection
from parley.postgres.prepared import Row
from parley.postgres.transaction import DecisionFailed, Outdated, Transaction
from tests.postgres.ledger import (
    ENTRIES,
    LOCK,
    READ,
    decided,
    entries,
    insert,
    locked,
    make,
    waiting,
    writing,
)


@pytest.fixture
def tables(database_url: str) -> str:
    return make(database_url)


@pytest.fixture(params=[False, True], ids=["planned anew", "plans kept"])
async def connection(tables: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    made = await Connection.open(tables, timeout=2, prepare=request.param)
    yield made
    made.close()


async def test_what_was_decided_is_committed_when_the_result_comes(
    connection: Connection, tables: str
) -> None:
    for number in range(3):
        seen: list[list[list[Row]]] = []

        def decide(rows: list[list[Row]], name: str = str(number)) -> tuple[list[Query], str]:
            seen.append(rows)  # noqa: B023 - it is called before the next turn
            return [insert(name), insert(f"{name} too")], name

        result = await connection.transact(Transaction([LOCK, READ, ENTRIES], decide))
        assert result == str(number)
        assert seen[0][1] == [(1,)]
        assert len(seen[0][2]) == 2 * number
        assert len(entries(tables)) == 2 * number + 2
    assert await connection.execute("select 1") == [(1,)]


async def test_a_decision_without_writes_leaves_no_lock_and_no_transaction(
    connection: Connection, tables: str
) -> None:
    assert await connection.transact(Transaction([LOCK, READ], lambda rows: ([], rows[1]))) == [(1,)]
    with psycopg.connect(tables) as admin:
        admin.execute("select from accounts where id = 'a' for update nowait")
    # Outside of a transaction: the next statement is committed by itself.
    await connection.execute(*insert("alone"))
    assert entries(tables) == ["alone"]


async def test_a_decision_that_fails_is_rolled_back_and_told(connection: Connection, tables: str) -> None:
    def decide(_: list[list[Row]]) -> tuple[list[Query], None]:
        raise LookupError("no such rule")

    with pytest.raises(DecisionFailed) as caught:
        await connection.transact(Transaction([LOCK], decide))
    assert str(caught.value.error) == "no such rule"
    with psycopg.connect(tables) as admin:
        admin.execute("select from accounts where id = 'a' for update nowait")
    assert not connection.closed
    assert await connection.transact(Transaction([LOCK], writing("after"))) == "written"


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (insert("there"), Outdated),
        (("insert into nowhere values (%s)", [1]), psycopg.errors.UndefinedTable),
        (("insert into entries values (%s)", ["\x00"]), psycopg.DataError),
        (("insert into entries values (%s)", ["\ud800"]), UnicodeEncodeError),
        (("insert into entries values (%s)", []), psycopg.ProgrammingError),
    ],
    ids=["unique", "unknown table", "NUL", "half a pair", "no value"],
)
async def test_a_write_that_fails_takes_the_others_back(
    connection: Connection, tables: str, broken: Query, error: type[Exception]
) -> None:
    await connection.execute(*insert("there"))
    for position in range(3):
        writes = [insert("first"), insert("second")]
        writes.insert(position, broken)
        for _ in range(2):
            with pytest.raises(error):
                await connection.transact(Transaction([LOCK], decided(writes)))
    assert entries(tables) == ["there"]
    assert await connection.transact(Transaction([LOCK], writing("after"))) == "written"
    assert entries(tables) == ["after", "there"]


@pytest.mark.parametrize(
    "broken",
    [
        ("select * from nowhere", ()),
        ("select 1 / %s::int", [0]),
        ("select '20000-01-01'::date", ()),
        ("select %s::text", ["\x00"]),
    ],
    ids=["unknown table", "division", "value that cannot be read", "value that cannot be sent"],
)
async def test_a_read_that_fails_decides_nothing(connection: Connection, tables: str, broken: Query) -> None:
    called: list[object] = []

    def decide(rows: list[list[Row]]) -> tuple[list[Query], None]:
        called.append(rows)
        return [], None

    for reads in ([LOCK, broken], [broken, LOCK]):
        with pytest.raises(psycopg.Error):
            await connection.transact(Transaction(reads, decide))
        with psycopg.connect(tables) as admin:
            admin.execute("select from accounts where id = 'a' for update nowait")
    assert not called
    assert await connection.transact(Transaction([LOCK], writing("after"))) == "written"


async def test_a_read_after_a_lock_sees_what_was_committed_while_it_waited(
    connection: Connection, tables: str
) -> None:
    with psycopg.connect(tables, autocommit=True) as admin:
        locked(admin)
        answer = connection.transact(Transaction([LOCK, READ], lambda rows: ([], rows[1])))
        await waiting(tables, 1)
        admin.execute("update accounts set amount = 7 where id = 'a'")
        admin.execute("commit")
        assert await answer == [(7,)]


async def test_a_connection_runs_one_transaction_at_a_time(connection: Connection) -> None:
    answer = connection.transact(Transaction([LOCK], writing("one")))
    with pytest.raises(RuntimeError):
        connection.transact(Transaction([LOCK], writing("two")))
    with pytest.raises(RuntimeError):
        connection.execute("select 1")
    await answer
