"""Health checks of this process, of the database and of Valkey."""

from fastapi import APIRouter, Request, Response

from parley.api.schemas import CamelModel, json_response
from parley.api.services import services_of

router = APIRouter()


class HealthBody(CamelModel):
    status: str
    database: str
    valkey: str


@router.get("/health", responses={200: {"model": HealthBody}, 503: {"model": HealthBody}})
async def health(request: Request) -> Response:
    """Report whether the database and Valkey answer.

    The status is 503 without the database. Without Valkey it stays 200, since streams still work. The answer
    may be some seconds old.
    """
    found = await services_of(request).health_check.health()
    database = _word(found.database)
    body = {"status": database, "database": database, "valkey": _word(found.log)}
    return json_response(body, 200 if found.database else 503)


def _word(answers: bool) -> str:
    return "ok" if answers else "unavailable"


@router.get("/ready", include_in_schema=False)
async def ready() -> Response:
    """Respond with 204 once this process accepts requests, without asking the database or Valkey.

    It is the readiness check of Lambda Web Adapter, which sends no request to the function before.
    """
    return Response(status_code=204)
