"""The migrate function: applies pending migrations during a deployment, and reports to CloudFormation."""

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
# Seconds of the function's time that are reserved for the response: without a response the stack hangs.
_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 3.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Apply pending migrations, and return the response of a CloudFormation custom resource.

    A Delete event changes nothing, so that the data stays. An event without a `ResponseURL` was invoked by
    hand: the invoker gets the response or the exception. The event's `Catalogue`, a table of plans and
    models, is loaded as well: only this function reaches the deployed database. The resource property
    `LetIn` names the role that the other functions log in as, and `LetInSecret` the secret with its password;
    without that the role logs in with IAM.
    """
    if event.get("RequestType") == "Delete":
        return _answer(event, "SUCCESS", "The schema and the data stay.", [])
    until = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _ANSWER_SECONDS
    try:
        # The other functions read the same settings, so a wrong setting fails the deployment here.
        settings = Settings.from_env()
        configure(settings.log_level)
        applied = asyncio.run(_migrate(settings, until, read(event.get("Catalogue", {}))))
        properties = event.get("ResourceProperties", {})
        if user := properties.get("LetIn"):
            asyncio.run(_let_in(settings, user, properties.get("LetInSecret", "")))
    except Exception as error:
        _logger.exception("migration_failed")
        if "ResponseURL" not in event:
            raise
        # The exception's message may quote a row or the URL with its password; the log has the location.
        said = str(error) if isinstance(error, SettingsError) else type(error).__name__
        reason = f"{said}; see {os.environ.get('AWS_LAMBDA_LOG_GROUP_NAME', 'the log')}"
        return _answer(event, "FAILED", reason, [])
    _logger.info("migrated", extra={"applied": applied})
    return _answer(event, "SUCCESS", "The schema is up to date.", applied)


async def _migrate(settings: Settings, until: float, catalogue: Catalogue) -> list[str]:
    """Apply migrations and load the catalogue. Return the names of the migrations and the models' ids.

    Retries until the monotonic time `until`, since the database may still be starting or waking up.
    """
    secrets = Secrets(settings)
    refused: str | None = None
    while True:
        try:
            # The URL of the last try: its password may have been rotated since the secret was cached.
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


async def _let_in(settings: Settings, user: str, secret: str) -> None:
    secrets = Secrets(settings)
    password = await asyncio.to_thread(secrets.password, secret, user) if secret else ""
    await let_in(await secrets.database_url(), user, password)


def _answer(event: dict[str, Any], status: str, reason: str, applied: list[str]) -> dict[str, Any]:
    answer = {
        "Status": status,
        "Reason": reason,
        # A constant: after a change of this id CloudFormation sends a Delete event for the old one.
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
    """Send the response to the pre-signed URL, whose signature requires an empty Content-Type.

    Tries three times. A response that CloudFormation never gets is only logged.
    """
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
