"""Suites are modules of their own, and their assertions shall explain themselves as tests' do."""

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.store_suite", "tests.conformance.limit_suite", "tests.conformance.log_suite"
)
