"""The history function: reads a chat's messages, a user's chats and the available models."""

import re
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from mangum import Mangum

from parley import bootstrap
from parley.api import health
from parley.api.app import create_app, documented
from parley.api.pages import page_json
from parley.api.principal import principal
from parley.api.queries import ChatListQuery, HistoryQuery, UserQuery, read_query, takes_query
from parley.api.schemas import (
    ChatListBody,
    HistoryBody,
    ModelListBody,
    chats_json,
    json_response,
    models_json,
)
from parley.api.services import services_of
from parley.aws.lambda_context import preload
from parley.domain.errors import InvalidRequest, NotFound
from parley.domain.ids import is_id

router = APIRouter()

_REFUSALS = (400, 401, 403, 404, 503)
# ASCII, since `\d` would match the digits of every script.
_BEFORE_CHAT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d_[A-Za-z0-9_-]{1,64}", re.ASCII
)


@router.get(
    "/chat/history",
    openapi_extra=takes_query(HistoryQuery),
    responses=documented(200, HistoryBody, *_REFUSALS),
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
        changed = None if page is None else page_json(page)
        if changed is not None and changed["nextBefore"] is None:
            return json_response(changed)
    page = await services.store.history(user, query.chat_id, query.before, query.limit)
    return json_response(page_json(page) | {"reset": query.since is not None})


@router.get(
    "/chat/list",
    openapi_extra=takes_query(ChatListQuery),
    responses=documented(200, ChatListBody, *_REFUSALS),
)
async def chats(request: Request) -> Response:
    """Return a page of the user's chats, most recently updated first.

    `nextBefore` is the `before` of the next page; it is null on the last page.
    """
    services, query = services_of(request), read_query(request, ChatListQuery)
    user = await principal(request, services, query.user_id)
    before = None if query.before is None else _place(query.before)
    return json_response(chats_json(await services.store.chats(user, before, query.limit)))


def _place(before: str) -> str:
    """Return `before` with its time in UTC. Raises `InvalidRequest`, also for a date like 30 February."""
    try:
        if _BEFORE_CHAT.fullmatch(before):
            time, _, chat_id = before.partition("_")
            return f"{datetime.fromisoformat(time).astimezone(UTC).isoformat()}_{chat_id}"
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest("before must be a nextBefore of this list.", field="before")


@router.get(
    "/chat/models", openapi_extra=takes_query(UserQuery), responses=documented(200, ModelListBody, *_REFUSALS)
)
async def models(request: Request) -> Response:
    """Return the enabled models, and for each whether the user may use it now.

    `unavailableBecause` gives the reason: the user's plan, or a server without the provider's API key.
    """
    services, query = services_of(request), read_query(request, UserQuery)
    user = await principal(request, services, query.user_id)
    return json_response(models_json(await services.store.models(user), services.models))


app = create_app("Parley history", [router, health.router], bootstrap.settings(), bootstrap.services)
handler = Mangum(app, lifespan="off")
preload(bootstrap.settings, tokens=True)
