"""Applies the schema when CloudFormation deploys, and tells CloudFormation how it went."""

import asyncio
import http.client
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

import psycopg

from parley.aws.secrets import Secrets
from parley.domain.errors import Unavailable
from parley.postgres.catalogue import Catalogue, load, read
from parley.postgres.migrate import migrate
from parley.postgres.roles import let_in
from parley.settings import Settings, SettingsError
from parley.support.logs import configure, logger

_logger = logger("migrate")
# Kept back from the function's time, in seconds, for the answer: without one the stack hangs.
_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 3.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Bring the schema up to date; on Delete, leave the data alone.

    An event without a `ResponseURL` was sent by hand: its sender gets the answer, or the exception. Its
    `Catalogue`, tables of plans and models, is loaded; no other way leads from outside into the database.
    """
    if event.get("RequestType") == "Delete":
        return _answer(event, "SUCCESS", "The schema and the data stay.", [])
    until = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _ANSWER_SECONDS
    try:
        # The other functions read the same: what they could not start with fails the deployment here.
        settings = Settings.from_env()
        configure(settings.log_level)
        applied = asyncio.run(_migrate(settings, until, read(event.get("Catalogue", {}))))
        if user := event.get("ResourceProperties", {}).get("LetIn"):
            asyncio.run(_let_in(settings, user))
    except Exception as error:
        _logger.exception("migration_failed")
        if "ResponseURL" not in event:
            raise
        # The message may quote a row or the address with its password; the log has the place.
        said = str(error) if isinstance(error, SettingsError) else type(error).__name__
        reason = f"{said}; see {os.environ.get('AWS_LAMBDA_LOG_GROUP_NAME', 'the log')}"
        return _answer(event, "FAILED", reason, [])
    _logger.info("migrated", extra={"applied": applied})
    return _answer(event, "SUCCESS", "The schema is up to date.", applied)


async def _migrate(settings: Settings, until: float, catalogue: Catalogue) -> list[str]:
    """Wait for a database that is still starting or waking, until the monotonic time `until`."""
    secrets = Secrets(settings)
    refused: str | None = None
    while True:
        try:
            refused = await secrets.database_url(refused)
            async with asyncio.timeout(max(1.0, until - time.monotonic())):
                applied = await migrate(refused)
                loads = catalogue.plans or catalogue.models
                return applied + (await load(refused, catalogue) if loads else [])
        except (psycopg.OperationalError, Unavailable) as error:
            if time.monotonic() + _PAUSE_SECONDS > until:
                raise
            _logger.info("database_awaited", extra={"error": type(error).__name__})
            await asyncio.sleep(_PAUSE_SECONDS)


async def _let_in(settings: Settings, user: str) -> None:
    await let_in(await Secrets(settings).database_url(), user)


def _answer(event: dict[str, Any], status: str, reason: str, applied: list[str]) -> dict[str, Any]:
    answer = {
        "Status": status,
        "Reason": reason,
        # Never changes: another id would tell CloudFormation to delete the schema before it.
        "PhysicalResourceId": "schema",
        "StackId": event.get("StackId", ""),
        "RequestId": event.get("RequestId", ""),
        "LogicalResourceId": event.get("LogicalResourceId", ""),
        "Data": {"Applied": ",".join(applied)},
    }
    if "ResponseURL" in event:
        _put(event["ResponseURL"], json.dumps(answer).encode())
    return answer


def _put(url: str, body: bytes) -> None:
    """Send the answer to the pre-signed URL, whose signature wants an empty content type."""
    target = urlsplit(url)
    kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    for attempt in range(3):
        connection = kind(target.netloc, timeout=8)
        try:
            connection.request("PUT", f"{target.path}?{target.query}", body, {"Content-Type": ""})
            status = connection.getresponse().status
        except OSError as error:
            _logger.warning("answer_failed", extra={"error": type(error).__name__, "attempt": attempt})
        else:
            if status < 300:
                return
            _logger.warning("answer_refused", extra={"status": status, "attempt": attempt})
        finally:
            connection.close()
        time.sleep(attempt)
