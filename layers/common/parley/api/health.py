"""Whether this process, and what it depends on, is well."""

from fastapi import APIRouter, Request, Response

from parley.api.schemas import Body, answer
from parley.api.services import services_of
from parley.domain.errors import LogUnavailable, StoreUnavailable

router = APIRouter()


class HealthBody(Body):
    status: str
    database: str
    valkey: str


@router.get("/health", responses={200: {"model": HealthBody}, 503: {"model": HealthBody}})
async def health(request: Request) -> Response:
    """Tell whether the database and Valkey answer; without Valkey, streams go on."""
    its = services_of(request)
    database = valkey = "ok"
    try:
        await its.store.check()
    except StoreUnavailable:
        database = "unavailable"
    try:
        await its.log.check()
    except LogUnavailable:
        valkey = "unavailable"
    status = "ok" if database == "ok" else "unavailable"
    body = {"status": status, "database": database, "valkey": valkey}
    return answer(body, 200 if database == "ok" else 503)


@router.get("/ready", include_in_schema=False)
async def ready() -> Response:
    """Answer as soon as this process can take requests; asks nothing of anybody."""
    return Response(status_code=204)
