"""The history function: reads a chat's messages, a user's chats and the available models."""

import re
from datetime import UTC, datetime
from typing import Any

from mangum import Mangum
from starlette.requests import Request
from starlette.responses import Response

from parley import bootstrap
from parley.api import health
from parley.api.app import create_app
from parley.api.operations import Operation
from parley.api.pages import page_body
from parley.api.principal import principal
from parley.api.requests import read_query
from parley.api.responses import json_response
from parley.api.schemas import (
    ChatListBody,
    ChatListQuery,
    HistoryBody,
    HistoryQuery,
    ModelListBody,
    UserQuery,
    chats_body,
    models_body,
)
from parley.api.services import services_of
from parley.aws.lambda_context import preload
from parley.domain.errors import InvalidRequest, NotFound
from parley.domain.ids import is_id

# ASCII, since `\d` would match the digits of every script.
_BEFORE_CHAT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d_[A-Za-z0-9_-]{1,64}", re.ASCII
)


async def history(request: Request) -> Response:
    """Return a page of a chat's messages, oldest first.

    The page ends before the position `before`, or with the newest message. It has fewer than `limit` messages
    where they would exceed 5 MB. `nextBefore` is the `before` of the page of older messages; it is null on
    the first page of the chat.

    With `since`, a revision of this chat, the page has the messages that changed after it. `reset` says that
    they are too many for a page, which then has the newest messages, in place of all that was known.
    """
    services, query = services_of(request), read_query(request, HistoryQuery)
    user = await principal(request, services, query.user_id)
    if not is_id(query.chat_id):
        raise NotFound
    if query.since is not None:
        if query.before is not None:
            raise InvalidRequest("since and before exclude each other.", field="since")
        page = await services.store.changes(user, query.chat_id, query.since, query.limit)
        changed = None if page is None else page_body(page)
        if changed is not None and changed.next_before is None:
            return json_response(changed)
    page = await services.store.history(user, query.chat_id, query.before, query.limit)
    return json_response(page_body(page, reset=query.since is not None))


async def chats(request: Request) -> Response:
    """Return a page of the user's chats, most recently updated first.

    `nextBefore` is the `before` of the next page; it is null on the last page.
    """
    services, query = services_of(request), read_query(request, ChatListQuery)
    user = await principal(request, services, query.user_id)
    before = None if query.before is None else _place(query.before)
    return json_response(chats_body(await services.store.chats(user, before, query.limit)))


def _place(before: str) -> str:
    """Return `before` with its time in UTC. Raises `InvalidRequest`, also for a date like 30 February."""
    try:
        if _BEFORE_CHAT.fullmatch(before):
            time, _, chat_id = before.partition("_")
            return f"{datetime.fromisoformat(time).astimezone(UTC).isoformat()}_{chat_id}"
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest("before must be a nextBefore of this list.", field="before")


async def models(request: Request) -> Response:
    """Return the enabled models, and for each whether the user may use it now.

    `unavailableBecause` gives the reason: the user's plan, or a server without the provider's API key.
    """
    services, query = services_of(request), read_query(request, UserQuery)
    user = await principal(request, services, query.user_id)
    return json_response(models_body(await services.store.models(user), services.models))


_REFUSALS = (400, 401, 403, 404, 503)
OPERATIONS = [
    Operation("GET", "/chat/history", history, {200: HistoryBody}, refusals=_REFUSALS, query=HistoryQuery),
    Operation("GET", "/chat/list", chats, {200: ChatListBody}, refusals=_REFUSALS, query=ChatListQuery),
    Operation("GET", "/chat/models", models, {200: ModelListBody}, refusals=_REFUSALS, query=UserQuery),
]
ROUTES = [*OPERATIONS, *health.OPERATIONS]
handler = Mangum(create_app(ROUTES, bootstrap.settings(), bootstrap.services), lifespan="off")
preload(bootstrap.settings, tokens=True)


def __getattr__(name: str) -> Any:
    """Make `app`, which documents the same routes, when it is first asked for: Lambda does without it."""
    if name != "app":
        raise AttributeError(name)
    from parley.api.openapi import documented_app  # noqa: PLC0415 - FastAPI takes a while to import

    app = globals()["app"] = documented_app(
        "Parley history", ROUTES, bootstrap.settings(), bootstrap.services
    )
    return app
