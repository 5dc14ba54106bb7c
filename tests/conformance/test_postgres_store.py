"""The store in Postgres."""

import pytest

from tests.conformance.backends import PostgresStage
from tests.conformance.limit_suite import LimitSuite
from tests.conformance.store_suite import StoreSuite


class OnPostgres:
    @pytest.fixture
    async def bare_stage(self, database_url: str) -> PostgresStage:
        return await PostgresStage.load(database_url)


class TestPostgresStore(OnPostgres, StoreSuite):
    pass


class TestPostgresLimits(OnPostgres, LimitSuite):
    pass
