"""The JSON of requests and responses, in camelCase: validation, serialisation and OpenAPI schemas."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from parley.domain.conversation import ChatPage, Message, OfferedModel, Role, Started
from parley.domain.errors import InvalidRequest, UnsupportedMedia
from parley.domain.ports import ChatModels
from parley.domain.titles import shown_title
from parley.streaming.frames import usage_json
from parley.support.encoding import to_json


class CamelModel(BaseModel):
    """A JSON object in camelCase. Types are not coerced, and unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False, strict=True)


class StartBody(CamelModel):
    prompt: str | None = None
    model_id: str
    chat_id: str | None = None
    user_id: str | None = None
    regenerate: bool = False
    parent_id: str | None = None
    replaces: str | None = None


class StopBody(CamelModel):
    session_id: str
    user_id: str | None = None


class StartedBody(CamelModel):
    session_id: str
    chat_id: str
    message_id: str
    reply_id: str
    expires_at: datetime


class StoppedBody(CamelModel):
    """An empty object: the session is stopping or has already ended."""


class UsageBody(CamelModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class PartBody(CamelModel):
    type: str
    text: str


class MessageBody(CamelModel):
    id: str
    position: int
    role: str
    status: str
    parts: list[PartBody]
    model_id: str | None
    reply_to: str | None
    superseded_by: str | None
    source: str | None
    finish_reason: str | None
    error_code: str | None
    usage: UsageBody | None
    created_at: datetime
    completed_at: datetime | None


class HistoryBody(CamelModel):
    chat_id: str
    title: str
    messages: list[MessageBody]
    next_before: str | None
    active_session_id: str | None
    revision: int
    reset: bool


class ChatBody(CamelModel):
    chat_id: str
    title: str
    model_id: str | None
    created_at: datetime
    updated_at: datetime
    active_session_id: str | None


class ChatListBody(CamelModel):
    chats: list[ChatBody]
    next_before: str | None


class ModelBody(CamelModel):
    id: str
    title: str
    provider: str
    available: bool
    unavailable_because: Literal["model_not_in_plan", "model_not_configured"] | None
    plans: list[str]


class ModelListBody(CamelModel):
    models: list[ModelBody]


class RemainingBody(CamelModel):
    """The remainder of each limit of the user's plan; null for an unlimited one."""

    requests: int | None
    streams: int | None
    tokens: int | None


class ErrorDetail(CamelModel):
    code: str
    message: str
    retryable: bool
    field: str | None = None
    active_session_id: str | None = None
    limit: Literal["requests", "streams", "tokens"] | None = None
    remaining: RemainingBody | None = None
    messages: list[MessageBody] | None = None
    revision: int | None = None


class ErrorBody(CamelModel):
    error: ErrorDetail


B = TypeVar("B", bound=CamelModel)


async def read_body(request: Request, kind: type[B]) -> B:
    """Return the validated JSON body.

    Raises `InvalidRequest`, which names the field, and `UnsupportedMedia` for a Content-Type other than JSON.
    Messages never quote the body. `RequestLimits` limits its size.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia("The body must be application/json.", field="Content-Type")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if not field:
            raise InvalidRequest("The body must be a JSON object in UTF-8.", field="body") from None
        what = "is required" if first["type"] == "missing" else "has the wrong type"
        raise InvalidRequest(f"{field} {what}.", field=field) from None


class JsonResponse(Response):
    """A JSON response whose body is serialised already."""

    media_type = "application/json"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        # The fields that Starlette would compute, without the computation: there are always these two.
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(self.body))]


_JSON = (b"content-type", b"application/json")


def json_response(body: object, status: int = 200) -> Response:
    """Return `body` as a JSON response."""
    return JsonResponse(to_json(body), status)


def started_json(started: Started) -> dict[str, object]:
    return {
        "sessionId": started.session_id,
        "chatId": started.chat_id,
        "messageId": started.message_id,
        "replyId": started.reply_id,
        "expiresAt": started.expires_at,
    }


def message_json(message: Message) -> dict[str, object]:
    return {
        "id": message.id,
        "position": message.position,
        "role": message.role.value,
        "status": message.status.value,
        "parts": [{"type": "text", "text": message.text}] if message.text else [],
        "modelId": message.model_id,
        "replyTo": message.reply_to,
        "supersededBy": message.superseded_by,
        "source": message.source,
        "finishReason": message.finish_reason,
        "errorCode": message.error_code,
        "usage": usage_json(message.usage) if message.role is Role.ASSISTANT else None,
        "createdAt": message.created_at,
        "completedAt": message.completed_at,
    }


def chats_json(page: ChatPage) -> dict[str, object]:
    return {
        "chats": [
            {
                "chatId": chat.chat_id,
                "title": shown_title(chat.title),
                "modelId": chat.model_id,
                "createdAt": chat.created_at,
                "updatedAt": chat.updated_at,
                "activeSessionId": chat.active_session_id,
            }
            for chat in page.chats
        ],
        "nextBefore": page.next_before,
    }


def models_json(offered: tuple[OfferedModel, ...], models: ChatModels) -> dict[str, object]:
    return {"models": [_model_json(model, configured=models.has(model.provider)) for model in offered]}


def _model_json(model: OfferedModel, *, configured: bool) -> dict[str, object]:
    # A missing key outweighs the plan: no plan makes the model available then.
    lack = None if model.in_plan else "model_not_in_plan"
    if not configured:
        lack = "model_not_configured"
    return {
        "id": model.id,
        "title": model.title,
        "provider": model.provider,
        "available": lack is None,
        "unavailableBecause": lack,
        "plans": model.plans,
    }
