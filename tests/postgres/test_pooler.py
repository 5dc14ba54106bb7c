"""Behind a pooler in transaction mode, as PgBouncer, nothing relies on a session or is left in one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from local.seed import seed
from parley.postgres.migrate import migrate
from parley.postgres.pool import Pool
from parley.postgres.transaction import Transaction
from tests.client import eventually
from tests.local.laptop import Laptop
from tests.local.test_dev import FAST, ask
from tests.postgres.pooler import Pooler


@pytest.fixture
async def pooler(own_empty_database: str) -> AsyncIterator[Pooler]:
    async with Pooler(own_empty_database).running() as running:
        yield running


async def left_behind(database_url: str) -> list[tuple[object, ...]]:
    """Return the locks that sessions hold without a statement."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        found = await connection.execute(
            "select l.locktype from pg_locks l join pg_stat_activity a using (pid)"
            " where a.datname = current_database() and a.state = 'idle'"
        )
        return await found.fetchall()


async def settings_and_plans(pooler: Pooler) -> set[tuple[object, ...]]:
    """Return what is set and prepared in the pooler's sessions, one after the other."""
    found: set[tuple[object, ...]] = set()
    connecting = psycopg.AsyncConnection.connect(pooler.url, autocommit=True, prepare_threshold=None)
    async with await connecting as connection:
        for _ in range(2 * pooler.sessions):
            row = await connection.execute(
                "select current_setting('lock_timeout'), (select count(*) from pg_prepared_statements)"
            )
            found |= set(await row.fetchall())
    return found


async def test_the_schema_and_the_catalogue_are_applied_twice(
    pooler: Pooler, own_empty_database: str
) -> None:
    assert await migrate(pooler.url)
    assert await left_behind(own_empty_database) == []
    assert await asyncio.gather(*(migrate(pooler.url) for _ in range(3))) == [[], [], []]
    for _ in range(3):
        await seed(pooler.url)
    await asyncio.gather(*(seed(pooler.url) for _ in range(4)))
    assert await left_behind(own_empty_database) == []
    assert await settings_and_plans(pooler) == {("0", 0)}


async def test_statements_and_transactions_run_without_plans(pooler: Pooler) -> None:
    pool = Pool(pooler.url, size=4, timeout=60, prepare=False)
    try:
        for _ in range(6):
            assert await pool.run("select %s::int + 1", [1]) == [(2,)]
        turns = [
            pool.transact(
                Transaction([("select %s::int", [number])], lambda rows: ([("select 1", ())], rows[0][0][0])),
                queue=str(number),
            )
            for number in range(8)
        ]
        assert await asyncio.gather(*turns) == list(range(8))
    finally:
        await pool.close()
    assert await settings_and_plans(pooler) == {("0", 0)}


async def test_a_full_pooler_is_waited_for_as_a_full_server_is(own_empty_database: str) -> None:
    async with Pooler(own_empty_database, clients=1).running() as pooler:
        pool = Pool(pooler.url, size=1, timeout=60)
        holder = await psycopg.AsyncConnection.connect(pooler.url)
        asked = asyncio.create_task(pool.run("select 1"))
        # More refusals than an outage is given.
        await eventually(lambda: pooler.refused > 4)
        assert not asked.done()
        await holder.close()
        assert await asked == [(1,)]
        await pool.close()


async def test_a_laptop_serves(pooler: Pooler, tmp_path: Path) -> None:
    env = FAST | {"DATABASE_URL": pooler.url, "DATABASE_PREPARE": "false", "VALKEY_URL": ""}
    for _ in range(2):
        with contextlib.ExitStack() as open_ones:
            laptop = await asyncio.to_thread(Laptop, tmp_path / "laptop" / "data", env=env)
            open_ones.enter_context(laptop)
            url = await asyncio.to_thread(laptop.ready)
            await asyncio.to_thread(ask, url, "What is a log?")
