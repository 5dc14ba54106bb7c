"""The store in Postgres."""

import asyncio

import psycopg
import pytest

from parley.domain.events import Spent
from parley.domain.ports import Store
from tests.conformance.backends import PostgresStage
from tests.conformance.limit_suite import WHOLE, LimitSuite, follows, partial
from tests.conformance.requests import new_session, turn
from tests.conformance.revision_suite import RevisionSuite
from tests.conformance.store_suite import StoreSuite


class OnPostgres:
    @pytest.fixture
    async def bare_stage(self, database_url: str) -> PostgresStage:
        return await PostgresStage.load(database_url)


class TestPostgresStore(OnPostgres, StoreSuite):
    async def test_a_long_chat_is_not_read_whole(self, store: Store) -> None:
        chat = (await turn(store, "0?", "0" * 3000)).chat_id
        await turn(store, "1?", "1" * 3000, chat)
        session = await store.session((await store.start(new_session("2?", chat_id=chat))).session_id)
        assert [entry.text[:2] for entry in session.turns] == ["11", "2?"]
        assert session.earlier == 3


async def waiting(connection: psycopg.AsyncConnection, statements: int) -> None:
    """Wait until so many statements wait for a lock in the connection's database."""
    async with asyncio.timeout(30):
        while True:
            cursor = await connection.execute(
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
            if await cursor.fetchone() == (statements,):
                return
            # The view is a snapshot of its transaction.
            await connection.execute("select pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)


class TestPostgresRevisions(OnPostgres, RevisionSuite):
    pass


class TestPostgresLimits(OnPostgres, LimitSuite):
    async def test_a_candidate_that_ends_while_it_is_chosen_is_passed_over(
        self, store: Store, other: Store, database_url: str
    ) -> None:
        asker = await follows(store, asks=True)
        first, second = await follows(other), await follows(other)
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.execute("update sessions set state = 'ended' where id = %s", [first])
            choosing = asyncio.create_task(store.hand_over(asker, [first, second], "key", 1, Spent(5, 20)))
            await waiting(connection, 1)
            await connection.commit()
            assert await choosing == second

    @pytest.mark.parametrize("first", ["end", "hand over"])
    async def test_an_end_and_a_hand_over_that_wait_for_each_other_are_charged_once(
        self, stage: PostgresStage, store: Store, other: Store, database_url: str, first: str
    ) -> None:
        asker, reader = await follows(store, asks=True), await follows(other, "bob")
        calls = [
            lambda: other.finish(asker, partial(7, 22), "joined"),
            lambda: store.hand_over(asker, [reader], "key", 1, Spent(5, 20)),
        ]
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.execute("select from sessions where id = %s for update", [asker])
            tasks = []
            for number, call in enumerate(calls if first == "end" else reversed(calls), start=1):
                tasks.append(asyncio.ensure_future(call()))
                await waiting(connection, number)
            await connection.commit()
            await asyncio.gather(*tasks)
        await other.finish(reader, WHOLE, "joined")
        mine, theirs = ((7, 22), (5, 78)) if first == "end" else ((5, 20), (7, 80))
        assert await stage.used("ada") == {"small": mine}
        assert await stage.used("bob") == {"small": theirs}
