"""Connections to a real Postgres: bounded, healed, and never shared by two statements."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from parley.domain.errors import StoreUnavailable, Unavailable
from parley.postgres.pool import Pool
from tests.client import eventually
from tests.faults.proxy import FaultProxy

_NOWHERE = "postgresql://parley@127.0.0.1:1/parley"


@pytest.fixture
async def connections(database_url: str) -> AsyncIterator[Pool]:
    made = Pool(database_url, size=3, timeout=20)
    yield made
    await made.close()


async def backends(connections: Pool) -> int:
    statement = (
        "select count(*)::int from pg_stat_activity"
        " where datname = current_database() and application_name = 'parley'"
    )
    [[count]] = await connections.run(statement)
    return int(count)


async def test_rows_and_json_come_as_they_are(connections: Pool) -> None:
    rows = await connections.run("select %s::text, %s::jsonb, 1.5::float8", ["é😀", '{"a": [1, null]}'])
    assert rows == [("é😀", {"a": [1, None]}, 1.5)]
    assert await connections.run("select %(a)s::int", {"a": 3}) == [(3,)]
    assert await connections.run("create temp table t (x int)") == []


async def test_one_connection_serves_one_after_the_other(connections: Pool) -> None:
    pids = {(await connections.run("select pg_backend_pid()"))[0][0] for _ in range(5)}
    assert len(pids) == 1
    assert await backends(connections) == 1


async def test_many_at_once_share_so_many_connections(connections: Pool) -> None:
    rows = await asyncio.gather(
        *(
            connections.run("select pg_backend_pid(), %s::int, pg_sleep(0.02)", [number])
            for number in range(20)
        )
    )
    assert [row[0][1] for row in rows] == list(range(20))
    assert len({row[0][0] for row in rows}) <= 3
    assert await backends(connections) <= 3


async def test_a_killed_connection_is_replaced_unseen(connections: Pool, database_url: str) -> None:
    before = await asyncio.gather(
        *(connections.run("select pg_backend_pid(), pg_sleep(0.02)") for _ in range(3))
    )
    with psycopg.connect(database_url, autocommit=True) as admin:
        for row in before:
            admin.execute("select pg_terminate_backend(%s, 1000)", [row[0][0]])
    after = await asyncio.gather(*(connections.run("select pg_backend_pid()") for _ in range(3)))
    assert not {row[0][0] for row in after} & {row[0][0] for row in before}


async def test_a_connection_lost_again_is_replaced_again_but_not_for_ever(connections: Pool) -> None:
    await connections.run("create sequence losses")
    statement = """
        select case when nextval('losses') < %s then pg_terminate_backend(pg_backend_pid(), 1000) end is null
    """
    assert await connections.run(statement, [3]) == [(True,)]
    with pytest.raises(StoreUnavailable):
        await connections.run(statement, [100])
    # A statement that ends its server is not tried for all the time there is.
    assert await connections.run("select last_value::int from losses") == [(6,)]


async def test_a_mistake_is_told_and_leaves_the_connection(connections: Pool) -> None:
    [[pid]] = await connections.run("select pg_backend_pid()")
    for _ in range(5):
        with pytest.raises(psycopg.errors.UndefinedTable):
            await connections.run("select * from unheard_of")
    assert await connections.run("select pg_backend_pid()") == [(pid,)]


async def test_a_statement_that_takes_too_long_is_left_behind(database_url: str) -> None:
    connections = Pool(database_url, size=1, timeout=1)
    with pytest.raises(StoreUnavailable):
        await connections.run("select pg_sleep(600)")
    assert await connections.run("select 1") == [(1,)]
    await connections.close()


async def test_the_time_that_this_process_was_away_does_not_count(database_url: str) -> None:
    for number in (0, 2, 4):
        connections = Pool(database_url, size=1, timeout=0.5)
        task = asyncio.create_task(connections.run("select %s::int", [number]))
        await asyncio.sleep(0.001 * number)
        # As a sandbox that is frozen, or a machine that has no time.
        time.sleep(1)  # noqa: ASYNC251
        assert await task == [(number,)]
        await connections.close()


async def test_connections_that_died_without_a_word_cost_one_wait(database_url: str) -> None:
    async with FaultProxy(database_url) as proxy:
        connections = Pool(proxy.url, size=4, timeout=3)
        await asyncio.gather(*(connections.run("select pg_sleep(0.05)") for _ in range(4)))
        proxy.half_open()
        await proxy.heal()
        with pytest.raises(StoreUnavailable):
            await connections.run("select 1")
        for _ in range(4):
            assert await connections.run("select 1") == [(1,)]
        await connections.close()


async def test_a_lost_packet_does_not_take_all_the_time_there_is(connections: Pool) -> None:
    await connections.run("select 1")
    [connection] = connections._idle
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        milliseconds = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert 0 < milliseconds <= 20_000 / 2


async def test_waiting_for_a_connection_is_bounded_too(database_url: str) -> None:
    connections = Pool(database_url, size=1, timeout=1.5)
    await connections.run("select 1")
    outcomes = await asyncio.gather(
        *(connections.run("select pg_sleep(0.8)") for _ in range(4)), return_exceptions=True
    )
    assert len([outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]) >= 2
    assert len([outcome for outcome in outcomes if isinstance(outcome, list)]) >= 1
    assert await connections.run("select 1") == [(1,)]
    await connections.close()


async def test_a_cancelled_statement_gives_nobody_its_answer(connections: Pool, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        for number in range(10):
            # It waits until it has been cancelled, however slow this machine is.
            admin.execute("select pg_advisory_lock(1)")
            task = asyncio.create_task(
                connections.run("select 'stale', pg_advisory_lock(1), pg_advisory_unlock(1)")
            )
            await asyncio.sleep(0.002 * number)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            admin.execute("select pg_advisory_unlock(1)")
            assert await connections.run("select %s::int", [number]) == [(number,)]

    async def few() -> bool:
        return await backends(connections) <= 3

    await eventually(few)


async def test_a_serialization_failure_is_tried_again(connections: Pool) -> None:
    await connections.run("create table tries (n serial)")
    statement = """
        do $$ begin
          if nextval('tries_n_seq') < 3 then
            raise exception 'try again' using errcode = 'serialization_failure';
          end if;
        end $$
    """
    await connections.run(statement)
    assert await connections.run("select last_value::int from tries_n_seq") == [(3,)]


async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    connections = Pool(_NOWHERE, size=1, timeout=600)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            # What is refused at once is not tried for all the time there is.
            async with asyncio.timeout(30):
                await connections.run("select 1")
        assert "127.0.0.1" not in str(caught.value)
        assert caught.value.retry_after
    await connections.close()


async def test_closing_leaves_no_connection(connections: Pool, database_url: str) -> None:
    await asyncio.gather(*(connections.run("select pg_sleep(0.02)") for _ in range(3)))
    await connections.close()
    observer = Pool(database_url, size=1, timeout=20)

    async def alone() -> bool:
        return await backends(observer) == 1

    await eventually(alone)
    await observer.close()


async def test_plans_are_kept_and_made_anew_where_they_do_not_fit(database_url: str) -> None:
    connections = Pool(database_url, size=1, timeout=2, prepare=True)
    prepared = "select count(*)::int from pg_prepared_statements"
    await connections.run("drop table if exists planned")
    await connections.run("create table planned (a int)")
    await connections.run("insert into planned values (1)")
    [[before]] = await connections.run(prepared)
    for _ in range(3):
        assert await connections.run("select * from planned where a = %s", [1]) == [(1,)]
    [[after]] = await connections.run(prepared)
    assert after > before
    # A migration in between, and a pooler that hands out another connection.
    await connections.run("alter table planned add column b int default 2")
    assert await connections.run("select * from planned where a = %s", [1]) == [(1, 2)]
    assert await connections.run("select * from planned where a = %s", [1]) == [(1, 2)]
    await connections.run("deallocate all")
    assert await connections.run("select * from planned where a = %s", [1]) == [(1, 2)]
    await connections.run("drop table planned")
    await connections.close()


async def test_without_plans_nothing_is_kept(connections: Pool) -> None:
    for _ in range(4):
        await connections.run("select %s::int", [1])
    assert await connections.run("select count(*)::int from pg_prepared_statements") == [(0,)]


async def test_45_a_secret_that_cannot_be_read_keeps_the_database_away(database_url: str) -> None:
    held: list[str | Exception] = [Unavailable("No."), ValueError("a secret's words"), database_url]

    async def url(_: str | None) -> str:
        found = held.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    connections = Pool(url, size=1, timeout=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await connections.run("select 1")
        assert "words" not in str(caught.value)
    assert await connections.run("select 1") == [(1,)]
    await connections.close()
