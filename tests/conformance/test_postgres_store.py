"""The store in Postgres."""

import pytest

from tests.conformance.stages import PostgresStage
from tests.conformance.store_suite import StoreSuite


class TestPostgresStore(StoreSuite):
    @pytest.fixture
    async def bare_stage(self, database_url: str) -> PostgresStage:
        return await PostgresStage.load(database_url)
