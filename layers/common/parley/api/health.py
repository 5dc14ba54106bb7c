"""Health checks of this process, of the database and of Valkey."""

from starlette.requests import Request
from starlette.responses import Response

from parley.api.operations import Operation
from parley.api.responses import json_response
from parley.api.schemas import HealthBody
from parley.api.services import services_of


async def health(request: Request) -> Response:
    """Report whether the database and Valkey answer.

    The status is 503 without the database. Without Valkey it stays 200, since streams still work. The answer
    may be some seconds old.
    """
    found = await services_of(request).health_check.health()
    database = _word(found.database)
    return json_response(HealthBody(database, database, _word(found.log)), 200 if found.database else 503)


def _word(answers: bool) -> str:
    return "ok" if answers else "unavailable"


async def ready(request: Request) -> Response:
    """Respond with 204 once this process accepts requests, without asking the database or Valkey.

    It is the readiness check of Lambda Web Adapter, which sends no request to the function before.
    """
    return Response(status_code=204)


OPERATIONS = [
    Operation("GET", "/health", health, {200: HealthBody, 503: HealthBody}),
    Operation("GET", "/ready", ready, {204: None}, hidden=True),
]
