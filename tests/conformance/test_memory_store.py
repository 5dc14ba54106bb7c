"""The store in memory."""

import pytest

from tests.conformance.backends import MemoryStage
from tests.conformance.limit_suite import LimitSuite
from tests.conformance.revision_suite import RevisionSuite
from tests.conformance.store_suite import StoreSuite


class OnMemory:
    @pytest.fixture
    def bare_stage(self) -> MemoryStage:
        return MemoryStage()


class TestMemoryStore(OnMemory, StoreSuite):
    pass


class TestMemoryLimits(OnMemory, LimitSuite):
    pass


class TestMemoryRevisions(OnMemory, RevisionSuite):
    pass
