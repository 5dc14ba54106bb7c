"""Transactions in the pool: repeated as a whole, undone for a caller who left, one of a queue at a time."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from parley.domain.errors import StoreUnavailable
from parley.postgres.batch import Query
from parley.postgres.pool import Pool
from parley.postgres.prepared import Row
from parley.postgres.transaction import Transaction
from tests.client import eventually
from tests.faults.proxy import FaultProxy
from tests.postgres.ledger import ENTRIES, LOCK, READ, entries, insert, locked, make, waiting, writing


@pytest.fixture
def tables(database_url: str) -> str:
    return make(database_url)


@pytest.fixture
async def pool(tables: str) -> AsyncIterator[Pool]:
    made = Pool(tables, size=2, timeout=20, prepare=True)
    yield made
    await made.close()


@pytest.mark.parametrize("how", ["late", "cancelled"])
async def test_a_transaction_without_its_caller_writes_nothing(tables: str, how: str) -> None:
    pool = Pool(tables, size=1, timeout=20 if how == "cancelled" else 1)
    for warm in (False, True):
        with psycopg.connect(tables, autocommit=True) as admin:
            locked(admin)
            task = asyncio.create_task(pool.transact(Transaction([LOCK], writing("late")), queue="q"))
            await waiting(tables, 1)
            if how == "cancelled":
                task.cancel()
            with pytest.raises((StoreUnavailable, asyncio.CancelledError)):
                await task
            admin.execute("rollback")
        # The next one waits for the lock that the first one had, and gets it.
        assert await pool.transact(Transaction([LOCK], writing(f"next {warm}")), queue="q") == "written"
    assert entries(tables) == ["next False", "next True"]
    await pool.close()


async def test_a_transaction_that_was_being_committed_is_whole(tables: str) -> None:
    async with FaultProxy(tables) as proxy:
        pool = Pool(proxy.url, size=1, timeout=1)
        await pool.run("select 1")

        def decide(_: list[list[Row]]) -> tuple[list[Query], None]:
            proxy.stall(proxy.down)
            return [insert("one"), insert("two")], None

        with pytest.raises(StoreUnavailable):
            await pool.transact(Transaction([LOCK], decide), queue="q")
        assert entries(tables) == ["one", "two"]
        await proxy.heal()
        assert await pool.run("select count(*) from entries") == [(2,)]
        await pool.close()


async def test_a_connection_killed_before_the_write_has_the_transaction_repeated(
    pool: Pool, tables: str
) -> None:
    calls: list[int] = []
    pids: Query = ("select pg_backend_pid()", ())

    def decide(rows: list[list[Row]]) -> tuple[list[Query], str]:
        calls.append(rows[1][0][0])
        if len(calls) < 3:
            with psycopg.connect(tables, autocommit=True) as admin:
                admin.execute("select pg_terminate_backend(%s, 5000)", [calls[-1]])
        return [insert("once")], "written"

    await asyncio.gather(*(pool.run("select pg_sleep(0.05)") for _ in range(2)))
    assert await pool.transact(Transaction([LOCK, pids], decide), queue="q") == "written"
    assert len(set(calls)) == 3
    assert entries(tables) == ["once"]


async def test_a_commit_whose_answer_was_lost_is_found_by_the_repetition(tables: str) -> None:
    async with FaultProxy(tables) as proxy:
        pool = Pool(proxy.url, size=1, timeout=20)
        await pool.run("select 1")
        found: list[list[Row]] = []

        def decide(rows: list[list[Row]]) -> tuple[list[Query], str]:
            found.append(rows[1])
            if rows[1]:
                return [], "was there"
            proxy.stall(proxy.down)
            return [insert("mine")], "written"

        task = asyncio.create_task(pool.transact(Transaction([LOCK, ENTRIES], decide), queue="q"))
        await eventually(lambda: entries(tables) == ["mine"])
        proxy.reset()
        await proxy.heal()
        assert await task == "was there"
        assert found == [[], [("mine",)]]
        assert entries(tables) == ["mine"]
        await pool.close()


@pytest.mark.parametrize("moment", ["read", "write"])
@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_47_a_transaction_that_the_server_gave_up_is_repeated(
    pool: Pool, tables: str, moment: str, state: str
) -> None:
    await pool.run("create sequence tries")
    await pool.run(
        "create function third_time() returns int language plpgsql as $$ begin"
        f" if nextval('tries') < 3 then raise exception 'again' using errcode = '{state}'; end if;"
        " return 1; end $$"
    )
    third: Query = ("select third_time()", ())
    reads = [LOCK, third] if moment == "read" else [LOCK]
    writes = [insert("once")] if moment == "read" else [insert("once"), third]
    assert await pool.transact(Transaction(reads, lambda _: (writes, "written")), queue="q") == "written"
    assert entries(tables) == ["once"]


async def test_47_two_transactions_that_wait_for_each_other_both_end(pool: Pool, tables: str) -> None:
    await asyncio.gather(*(pool.run("select pg_sleep(0.05)") for _ in range(2)))
    tries: list[str] = []

    def lock(name: str) -> Query:
        return ("select from accounts where id = %s for no key update", [name])

    def crosswise(mine: str, other: str) -> Transaction[str]:
        def decide(_: list[list[Row]]) -> tuple[list[Query], str]:
            tries.append(mine)
            if len(tries) == 1:
                _both_hold_a_lock(tables)
            return [lock(other), insert(mine)], mine

        return Transaction([lock(mine)], decide)

    results = await asyncio.gather(
        pool.transact(crosswise("a", "b"), queue="a"), pool.transact(crosswise("b", "a"), queue="b")
    )
    assert list(results) == ["a", "b"]
    assert entries(tables) == ["a", "b"]
    # One of them was undone and tried again; on a busy machine they may meet once more.
    assert len(tries) >= 3


def _both_hold_a_lock(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        while admin.execute(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and state = 'idle in transaction'"
        ).fetchone() != (2,):
            pass


async def test_transactions_of_one_queue_leave_the_connections_to_others(tables: str) -> None:
    pool = Pool(tables, size=3, timeout=20)
    with psycopg.connect(tables, autocommit=True) as admin:
        locked(admin)
        queued = [
            asyncio.create_task(pool.transact(Transaction([LOCK], writing(str(number))), queue="slow"))
            for number in range(6)
        ]
        await waiting(tables, 2)
        assert await pool.transact(Transaction([READ], writing("other")), queue="other") == "written"
        assert not any(task.done() for task in queued)
        queued.pop(3).cancel()
        admin.execute("rollback")
    assert await asyncio.gather(*queued) == ["written"] * 5
    assert entries(tables) == ["0", "1", "2", "4", "5", "other"]
    await pool.close()


async def test_plans_that_a_pooler_forgot_are_made_anew(tables: str) -> None:
    pool = Pool(tables, size=1, timeout=20, prepare=True)
    for number in range(4):
        assert await pool.transact(Transaction([LOCK], writing(f"{number}")), queue="q") == "written"
        await pool.run("deallocate all")
    assert entries(tables) == ["0", "1", "2", "3"]
    await pool.close()
