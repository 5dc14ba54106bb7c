"""The log in memory."""

import pytest

from tests.conformance.backends import MemoryLogStage
from tests.conformance.log_suite import LogSuite


class TestMemoryLog(LogSuite):
    @pytest.fixture
    def bare_stage(self) -> MemoryLogStage:
        return MemoryLogStage()
