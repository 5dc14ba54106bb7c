"""What must not break a transaction: callers that leave, odd servers and databases, its own callbacks."""

import asyncio

import psycopg
import pytest

from parley.domain.errors import StoreUnavailable
from parley.postgres.batch import Query
from parley.postgres.pool import Pool
from parley.postgres.prepared import Row
from parley.postgres.transaction import Transaction
from tests.client import eventually
from tests.postgres.ledger import LOCK, READ, decided, entries, insert, locked, make, waiting, writing


@pytest.fixture
def tables(database_url: str) -> str:
    return make(database_url)


async def test_callers_who_left_keep_their_place_in_the_queue_and_no_more(tables: str) -> None:
    pool = Pool(tables, size=3, timeout=20)
    with psycopg.connect(tables, autocommit=True) as admin:
        locked(admin)
        for number in range(8):
            task = asyncio.create_task(
                pool.transact(Transaction([LOCK], writing(f"left {number}")), queue="slow")
            )
            await asyncio.sleep(0.01)
            if number == 1:
                await waiting(tables, 2)
            task.cancel()
            await asyncio.wait([task])
        assert await pool.transact(Transaction([READ], writing("other")), queue="other") == "written"
        await waiting(tables, 2)
        admin.execute("rollback")
    assert await pool.transact(Transaction([LOCK], writing("next")), queue="slow") == "written"
    assert entries(tables) == ["next", "other"]
    # The caller has its result a moment before its place is given up.
    await eventually(lambda: not pool._queues._queues)
    await pool.close()


@pytest.mark.parametrize("prepare", [False, True])
async def test_a_statement_may_come_several_times_in_a_transaction(tables: str, prepare: bool) -> None:
    pool = Pool(tables, size=1, timeout=20, prepare=prepare)
    for number in range(3):
        writes = [insert(f"{number}{letter}") for letter in "abc"]
        await pool.transact(Transaction([READ, LOCK, READ], decided(writes)), queue="q")
    assert len(entries(tables)) == 9
    await pool.close()


@pytest.mark.parametrize(
    "error", [StoreUnavailable(), OSError("ours"), psycopg.OperationalError("ours"), ValueError("ours")]
)
async def test_what_a_decision_raises_is_the_callers_and_costs_no_connection(
    tables: str, error: Exception
) -> None:
    pool = Pool(tables, size=1, timeout=20)
    pids: Query = ("select pg_backend_pid()", ())
    [[before]] = await pool.run(*pids)
    calls = 0

    def decide(_: list[list[Row]]) -> tuple[list[Query], None]:
        nonlocal calls
        calls += 1
        raise error

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            await pool.transact(Transaction([LOCK], decide), queue="q")
        assert caught.value is error
    assert calls == 2
    # The one permit and the one connection are there.
    assert await pool.run(*pids) == [(before,)]
    await pool.close()


async def test_a_server_that_may_only_be_read_now_is_left(tables: str) -> None:
    pool = Pool(tables, size=2, timeout=20)
    await pool.run("create sequence tries")
    await pool.run(
        "create function only_read() returns int language plpgsql as $$ begin"
        " if nextval('tries') < 2 then raise exception 'no' using errcode = '25006'; end if;"
        " return pg_backend_pid(); end $$"
    )
    [[before]] = await pool.run("select pg_backend_pid()")
    elsewhere: Query = ("select only_read()", ())
    after = await pool.transact(Transaction([elsewhere], lambda rows: ([insert("once")], rows[0])), queue="q")
    assert after != [(before,)]
    assert entries(tables) == ["once"]
    await pool.close()


async def test_a_lock_timeout_of_the_database_is_a_wait_and_no_lost_connection(tables: str) -> None:
    with psycopg.connect(tables, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(f'alter database "{name}" set lock_timeout = 50'.encode())
        pool = Pool(tables, size=1, timeout=20)
        [[before]] = await pool.run("select pg_backend_pid()")
        locked(admin)
        task = asyncio.create_task(pool.transact(Transaction([LOCK], writing("late")), queue="q"))

        def given_up() -> bool:
            with psycopg.connect(tables) as observer:
                rows = observer.execute(
                    "select sum(xact_rollback) from pg_stat_database where datname = current_database()"
                ).fetchone()
            return bool(rows and rows[0] > 2)

        await eventually(given_up)
        assert not task.done()
        admin.execute("rollback")
        assert await task == "written"
        assert await pool.run("select pg_backend_pid()") == [(before,)]
        await pool.close()


async def test_the_snapshot_comes_after_the_locks_whatever_the_database_prefers(tables: str) -> None:
    with psycopg.connect(tables, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(
            f"alter database \"{name}\" set default_transaction_isolation = 'repeatable read'".encode()
        )
        admin.execute(f'alter database "{name}" set default_transaction_read_only = on'.encode())
        pool = Pool(tables, size=1, timeout=20)
        locked(admin)
        task = asyncio.create_task(
            pool.transact(Transaction([LOCK, READ], lambda rows: ([insert("seen")], rows[1])), queue="q")
        )
        await waiting(tables, 1)
        admin.execute("update accounts set amount = 7 where id = 'a'; commit")
        assert await task == [(7,)]
        await pool.close()
