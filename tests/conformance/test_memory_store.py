"""The store in memory."""

import pytest

from tests.conformance.stages import MemoryStage
from tests.conformance.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def bare_stage(self) -> MemoryStage:
        return MemoryStage()
