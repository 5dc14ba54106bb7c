"""The start function: opens sessions for prompts, and stops sessions."""

from typing import Any

from mangum import Mangum
from starlette.requests import Request
from starlette.responses import Response

from parley import bootstrap
from parley.api import health
from parley.api.app import create_app
from parley.api.operations import Operation
from parley.api.principal import principal
from parley.api.requests import read_body
from parley.api.responses import json_response
from parley.api.schemas import (
    IDEMPOTENCY_KEY_CHARACTERS,
    IdempotencyKey,
    StartBody,
    StartedBody,
    StopBody,
    StoppedBody,
    started_body,
)
from parley.api.services import services_of
from parley.aws.lambda_context import preload
from parley.domain.errors import InvalidRequest
from parley.usecases import sessions


async def start(request: Request) -> Response:
    """Save the user's prompt, and open a session whose stream delivers the reply.

    Without `chatId`, a new chat begins. With `regenerate`, the chat's last prompt is answered again.
    `parentId` names the last message that the client shows, `replaces` the reply that it asks for anew. If
    the chat has gone on since, the error `chat_moved` has what is new.
    Repeating a request with the same Idempotency-Key returns the first request's session.
    """
    services, idempotency_key = services_of(request), request.headers.get("idempotency-key")
    body = await read_body(request, StartBody)
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= IDEMPOTENCY_KEY_CHARACTERS:
        message = f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_CHARACTERS} characters."
        raise InvalidRequest(message, field="Idempotency-Key")
    start_request = sessions.StartRequest(
        user_id=await principal(request, services, body.user_id),
        prompt=body.prompt,
        model_id=body.model_id,
        chat_id=body.chat_id,
        regenerate=body.regenerate,
        idempotency_key=idempotency_key,
        parent_id=body.parent_id,
        replaces=body.replaces,
    )
    limit = services.settings.prompt_characters
    started = await sessions.start(
        services.store,
        services.cached_replies,
        services.session_ids,
        start_request,
        prompt_characters=limit,
    )
    return json_response(started_body(started), 201)


async def stop(request: Request) -> Response:
    """Stop a session, and save its partial reply. A repeated request changes nothing."""
    services = services_of(request)
    body = await read_body(request, StopBody)
    user_id = body.user_id
    if services.settings.auth_mode != "trusted" or user_id is not None:
        user_id = await principal(request, services, user_id)
    await sessions.stop(services.store, services.log, services.session_ids, body.session_id, user_id)
    # Stops a reply that this process writes at once, before the log reports the stop.
    services.runner.halt(body.session_id)
    return json_response(StoppedBody(), 202)


OPERATIONS = [
    Operation(
        "POST",
        "/chat/start",
        start,
        {201: StartedBody},
        refusals=(400, 401, 403, 404, 409, 413, 415, 429, 503),
        takes=StartBody,
        headers={"idempotency-key": IdempotencyKey},
    ),
    Operation(
        "POST",
        "/chat/stop",
        stop,
        {202: StoppedBody},
        refusals=(400, 401, 403, 404, 413, 415, 503),
        takes=StopBody,
    ),
]
ROUTES = [*OPERATIONS, *health.OPERATIONS]
handler = Mangum(create_app(ROUTES, bootstrap.settings(), bootstrap.services), lifespan="off")
preload(bootstrap.settings, tokens=True)


def __getattr__(name: str) -> Any:
    """Make `app`, which documents the same routes, when it is first asked for: Lambda does without it."""
    if name != "app":
        raise AttributeError(name)
    from parley.api.openapi import documented_app  # noqa: PLC0415 - FastAPI takes a while to import

    app = globals()["app"] = documented_app("Parley start", ROUTES, bootstrap.settings(), bootstrap.services)
    return app
