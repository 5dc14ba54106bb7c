"""The log in memory."""

import pytest

from tests.conformance.log_suite import LogSuite
from tests.conformance.stages import MemoryLogStage


class TestMemoryLog(LogSuite):
    @pytest.fixture
    def bare_stage(self) -> MemoryLogStage:
        return MemoryLogStage()
