"""Reads: a chat's messages, a user's chats, the models on offer."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from mangum import Mangum

from parley import bootstrap
from parley.errors import InvalidRequest, NotFound
from parley.http import health
from parley.http.app import answers, create_app
from parley.http.bodies import (
    ChatListBody,
    HistoryBody,
    ModelListBody,
    answer,
    chats_json,
    models_json,
    page_json,
)
from parley.http.principal import principal
from parley.http.services import Its
from parley.ids import is_id

router = APIRouter()

UserId = Annotated[str | None, Query(alias="userId")]
Limit = Annotated[int, Query(ge=1, le=200)]
_REFUSALS = (400, 401, 403, 404, 503)
_BEFORE_CHAT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d_[A-Za-z0-9_-]{1,64}", re.ASCII
)


@router.get("/chat/history", responses=answers(200, HistoryBody, *_REFUSALS))
async def history(
    request: Request,
    its: Its,
    chat_id: Annotated[str, Query(alias="chatId")],
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Limit = 50,
    user_id: UserId = None,
) -> Response:
    """Return a page of a chat, oldest first; `nextBefore` leads to the messages before it."""
    user = await principal(request, its, user_id)
    if not is_id(chat_id):
        raise NotFound
    return answer(page_json(await its.store.history(user, chat_id, before, limit)))


@router.get("/chat/list", responses=answers(200, ChatListBody, *_REFUSALS))
async def chats(
    request: Request,
    its: Its,
    before: str | None = None,
    limit: Limit = 50,
    user_id: UserId = None,
) -> Response:
    """Return a page of the user's chats, the latest first."""
    user = await principal(request, its, user_id)
    at = None if before is None else _place(before)
    return answer(chats_json(await its.store.chats(user, at, limit)))


def _place(before: str) -> str:
    """Return a place in the list of chats as the store takes it: there is no 30 February."""
    try:
        if _BEFORE_CHAT.fullmatch(before):
            time, _, chat_id = before.partition("_")
            return f"{datetime.fromisoformat(time).astimezone(UTC).isoformat()}_{chat_id}"
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest("before must be a nextBefore of this list.", field="before")


@router.get("/chat/models", responses=answers(200, ModelListBody, *_REFUSALS))
async def models(request: Request, its: Its, user_id: UserId = None) -> Response:
    """Return the models on offer, each with whether the user can ask it now, or why not."""
    user = await principal(request, its, user_id)
    return answer(models_json(await its.store.models(user), its.models))


app = create_app("Parley history", [router, health.router], bootstrap.settings(), bootstrap.services)
handler = Mangum(app, lifespan="off")
bootstrap.preload(tokens=True)
