"""The store in Postgres."""

import pytest

from parley.domain.ports import Store
from tests.conformance.backends import PostgresStage
from tests.conformance.limit_suite import LimitSuite
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


class TestPostgresLimits(OnPostgres, LimitSuite):
    pass


class TestPostgresRevisions(OnPostgres, RevisionSuite):
    pass
