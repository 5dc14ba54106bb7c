"""The stream function: streams one reply as Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from parley import bootstrap
from parley.api import health
from parley.api.app import create_app
from parley.api.event_stream import EventStream
from parley.api.operations import Operation
from parley.api.requests import read_query
from parley.api.schemas import StreamQuery
from parley.api.services import services_of
from parley.aws.lambda_context import lambda_deadline, preload
from parley.domain.errors import NotFound
from parley.domain.events import Cursor
from parley.streaming.reader import Reader, at_end
from parley.support.gc_tuning import freeze_startup_objects
from parley.support.sse_decoder import CONTENT_TYPE


async def stream(request: Request) -> Response:
    """Stream a session's reply as Server-Sent Events, from the cursor on.

    The cursor is the last event's id, in `Last-Event-ID` or `cursor`; the field takes precedence. Without a
    cursor, the stream begins with the reply. The status is 204 if the reply has ended at the cursor.
    """
    services, query = services_of(request), read_query(request, StreamQuery)
    session_id = query.session_id
    if not services.session_ids.verify(session_id):
        raise NotFound
    # An EventSource repeats its URL when it reconnects, so the field is newer than the parameter.
    hint = request.headers.get("last-event-id") or query.cursor or ""
    at = Cursor.parse(hint)
    session = await services.store.session(session_id)
    if session.reply is not None and at_end(session.reply, at):
        return Response(status_code=204)
    settings = services.settings
    margin = settings.deadline_margin_seconds
    deadline = lambda_deadline(request.headers.get("x-amzn-lambda-context"), margin)
    in_lambda = deadline is not None
    if deadline is None and settings.deadline_seconds:
        deadline = asyncio.get_running_loop().time() + max(0.0, settings.deadline_seconds - margin)
    # A reply that this invocation writes ends a margin early, so that it can be saved. A reply that it only
    # reads needs no save, and may go on for half of the margin.
    until = None if deadline is None else deadline + margin / 2
    run = services.runner.open(session, deadline)
    reader = Reader(
        run,
        at,
        hinted=bool(hint),
        heartbeat=settings.heartbeat_seconds,
        pace=settings.cache_replay_tokens_per_second,
        until=until,
        counter=services.runner.readers,
        release=partial(services.runner.invocations.release, run) if in_lambda else None,
    )

    async def on_complete() -> None:
        assert until is not None
        await services.runner.invocations.wait_until_idle(run, until, let_go=reader.is_let_go)

    # Lambda freezes the sandbox after the response, so the response waits for the session's run to end.
    return EventStream(reader, on_complete if in_lambda else None)


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    freeze_startup_objects()
    yield
    await bootstrap.services().close()


OPERATIONS = [
    Operation(
        "GET",
        "/chat/stream",
        stream,
        {200: CONTENT_TYPE, 204: None},
        refusals=(400, 403, 404, 410, 503),
        query=StreamQuery,
        headers={"last-event-id": str},
    )
]
ROUTES = [*OPERATIONS, *health.OPERATIONS]
handler = create_app(ROUTES, bootstrap.settings(), bootstrap.services, lifespan=_lifespan)
# No token: the session id is the right to read the stream.
preload(bootstrap.settings, tokens=False)


def __getattr__(name: str) -> Any:
    """Make `app`, which documents the same routes, when it is first asked for: Lambda does without it."""
    if name != "app":
        raise AttributeError(name)
    from parley.api.openapi import documented_app  # noqa: PLC0415 - FastAPI takes a while to import

    app = globals()["app"] = documented_app(
        "Parley stream", ROUTES, bootstrap.settings(), bootstrap.services, lifespan=_lifespan
    )
    return app
