"""What an application answers when it was set up wrong."""

import logging

import httpx
import pytest

from parley.api import health
from parley.api.app import create_app
from parley.services import Services
from parley.settings import Settings, SettingsError


async def test_a_setting_that_makes_no_sense_is_logged_and_kept_from_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def services() -> Services:
        raise SettingsError("KEY_SECRET is not set.")

    app = create_app("Test", [health.router], Settings(), services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with caplog.at_level(logging.ERROR, "parley"):
            answer = await client.get("/health")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert answer.json()["error"]["retryable"] is False
    assert "KEY_SECRET" not in answer.text
    [record] = caplog.records
    assert (record.message, vars(record)["reason"]) == ("misconfigured", "KEY_SECRET is not set.")
