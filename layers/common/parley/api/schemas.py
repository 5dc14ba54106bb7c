"""The types of the wire: each once, as a struct in camelCase. Validation, JSON and OpenAPI come from it.

The structs of requests say what is taken: types are not coerced, and unknown fields are ignored. Those of
responses are made by the functions below them.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from parley.domain.conversation import ChatPage, Message, OfferedModel, Role, Started
from parley.domain.events import Usage
from parley.domain.ports import ChatModels
from parley.domain.titles import shown_title


class Wire(Struct, frozen=True, rename="camel"):
    """A JSON object, or the parameters of a query."""


# A time with its offset from UTC, as RFC 3339 has it.
_Time = Annotated[datetime, Meta(tz=True)]

# -- requests --------------------------------------------------------------------------------------


class StartBody(Wire, frozen=True):
    model_id: str
    prompt: str | None = None
    chat_id: str | None = None
    user_id: str | None = None
    regenerate: bool = False
    parent_id: str | None = None
    replaces: str | None = None


IDEMPOTENCY_KEY_CHARACTERS = 200
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=IDEMPOTENCY_KEY_CHARACTERS)]


class StopBody(Wire, frozen=True):
    session_id: str
    user_id: str | None = None


class UserQuery(Wire, frozen=True):
    user_id: str | None = None


# The positions and revisions that Postgres's bigint takes.
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Limit = Annotated[int, Meta(ge=1, le=200)]


class HistoryQuery(Wire, frozen=True):
    chat_id: str
    user_id: str | None = None
    before: _Count | None = None
    since: _Count | None = None
    limit: _Limit = 50


class ChatListQuery(Wire, frozen=True):
    user_id: str | None = None
    before: str | None = None
    limit: _Limit = 50


class StreamQuery(Wire, frozen=True):
    session_id: str
    cursor: str | None = None


# -- responses -------------------------------------------------------------------------------------


class StartedBody(Wire, frozen=True):
    session_id: str
    chat_id: str
    message_id: str
    reply_id: str
    expires_at: _Time


def started_body(started: Started) -> StartedBody:
    return StartedBody(
        started.session_id, started.chat_id, started.message_id, started.reply_id, started.expires_at
    )


class StoppedBody(Wire, frozen=True):
    """An empty object: the session is stopping or has already ended."""


class UsageBody(Wire, frozen=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(usage.input_tokens, usage.output_tokens, usage.input_tokens + usage.output_tokens)


class PartBody(Wire, frozen=True):
    type: str
    text: str


class MessageBody(Wire, frozen=True):
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
    created_at: _Time
    completed_at: _Time | None


def message_body(message: Message) -> MessageBody:
    shows_usage = message.role is Role.ASSISTANT and message.usage is not None
    return MessageBody(
        id=message.id,
        position=message.position,
        role=message.role,
        status=message.status,
        parts=[PartBody("text", message.text)] if message.text else [],
        model_id=message.model_id,
        reply_to=message.reply_to,
        superseded_by=message.superseded_by,
        source=message.source,
        finish_reason=message.finish_reason,
        error_code=message.error_code,
        usage=usage_body(message.usage) if shows_usage and message.usage is not None else None,
        created_at=message.created_at,
        completed_at=message.completed_at,
    )


class HistoryBody(Wire, frozen=True):
    chat_id: str
    title: str
    messages: list[MessageBody]
    next_before: str | None
    active_session_id: str | None
    revision: int
    reset: bool


class ChatBody(Wire, frozen=True):
    chat_id: str
    title: str
    model_id: str | None
    created_at: _Time
    updated_at: _Time
    active_session_id: str | None


class ChatListBody(Wire, frozen=True):
    chats: list[ChatBody]
    next_before: str | None


def chats_body(page: ChatPage) -> ChatListBody:
    chats = [
        ChatBody(
            chat.chat_id,
            shown_title(chat.title),
            chat.model_id,
            chat.created_at,
            chat.updated_at,
            chat.active_session_id,
        )
        for chat in page.chats
    ]
    return ChatListBody(chats, page.next_before)


class ModelBody(Wire, frozen=True):
    id: str
    title: str
    provider: str
    available: bool
    unavailable_because: Literal["model_not_in_plan", "model_not_configured"] | None
    plans: list[str]


class ModelListBody(Wire, frozen=True):
    models: list[ModelBody]


def models_body(offered: tuple[OfferedModel, ...], models: ChatModels) -> ModelListBody:
    return ModelListBody([_model_body(model, configured=models.has(model.provider)) for model in offered])


def _model_body(model: OfferedModel, *, configured: bool) -> ModelBody:
    lack: Literal["model_not_in_plan", "model_not_configured"] | None
    lack = None if model.in_plan else "model_not_in_plan"
    # A missing key outweighs the plan: no plan makes the model available then.
    if not configured:
        lack = "model_not_configured"
    return ModelBody(model.id, model.title, model.provider, lack is None, lack, list(model.plans))


class HealthBody(Wire, frozen=True):
    status: str
    database: str
    valkey: str


# -- errors ----------------------------------------------------------------------------------------


class RemainingBody(Wire, frozen=True):
    """The remainder of each limit of the user's plan; null for an unlimited one."""

    requests: int | None
    streams: int | None
    tokens: int | None


class ErrorDetail(Wire, frozen=True):
    code: str
    message: str
    retryable: bool
    field: str | UnsetType = UNSET
    active_session_id: str | UnsetType = UNSET
    limit: Literal["requests", "streams", "tokens"] | UnsetType = UNSET
    remaining: RemainingBody | UnsetType = UNSET
    messages: list[MessageBody] | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    reset: bool | UnsetType = UNSET


class ErrorBody(Wire, frozen=True):
    error: ErrorDetail


def error_body(code: str, message: str, *, retryable: bool, **details: Any) -> ErrorBody:
    """Return an error. `details` are further fields of `ErrorDetail`."""
    if "remaining" in details:
        details["remaining"] = RemainingBody(**details["remaining"])
    return ErrorBody(ErrorDetail(code, message, retryable, **details))
