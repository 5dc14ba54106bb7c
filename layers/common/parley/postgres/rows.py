"""Converts rows of Postgres to the domain's values, and values to columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from parley.domain.conversation import (
    CatalogueEntry,
    Message,
    Model,
    ModelOptions,
    Reply,
    Role,
    Session,
    SessionState,
    Started,
    Turn,
)
from parley.domain.events import Completed, End, Failed, FinishReason, Status, Usage
from parley.domain.limits import charged
from parley.support.encoding import convert_leniently

# Dictionaries, since calling an enumeration's class takes ten times as long.
_ROLES = {role.value: role for role in Role}
_STATUSES = {status.value: status for status in Status}
_NO_OPTIONS = ModelOptions()
_STATES = {state.value: state for state in SessionState}


def started_of(row: Sequence[Any]) -> Started:
    """Return the started session of a row of `begin_session`."""
    session_id, chat_id, message_id, reply_id, expires_at = row[1:6]
    answered, version, model = row[10:]
    entry = CatalogueEntry(version, Model(*model)) if model is not None else None
    return Started(session_id, chat_id, message_id, reply_id, expires_at, answered, entry)


def session_of(session_id: str, row: Sequence[Any]) -> tuple[Session, bool, bool]:
    """Return the session of a row of `SESSION`, whether it has expired, and whether its user is disabled."""
    # Positions are those of the columns in `SESSION`: 11 of the session, 9 of the model, 7 of the reply.
    user_id, chat_id, message_id, reply_id, state, regenerate, epoch, leased, key, expired, disabled = row[
        :11
    ]
    session = Session(
        id=session_id,
        user_id=user_id,
        chat_id=chat_id,
        message_id=message_id,
        reply_id=reply_id,
        state=_STATES[state],
        regenerate=regenerate,
        epoch=epoch,
        leased=leased,
        model=_model_of(row[11:20]),
        turns=tuple(Turn(_ROLES[role], text_of(parts)) for role, parts in row[27] or ()),
        generation_key=key,
        reply=reply_of(row[20:27]) if state == SessionState.ENDED else None,
        source=row[28],
    )
    return session, expired, disabled


def _model_of(columns: Sequence[Any]) -> Model:
    fields = (*columns[:-1], _options_of(columns[-1]))
    return Model(*fields)


def _options_of(column: object) -> ModelOptions:
    """Return a model's options. An invalid option counts as absent, since a row may be edited by hand."""
    if not column:
        return _NO_OPTIONS
    options: ModelOptions = convert_leniently(column, ModelOptions)
    return options


def reply_of(columns: Sequence[Any]) -> Reply:
    """Return the reply of seven columns.

    They are epoch, parts, finish_reason, provider_reason, error, input_tokens and output_tokens.
    """
    epoch, parts, finish_reason, provider_reason, error, input_tokens, output_tokens = columns
    end: End
    if error is not None:
        end = Failed(error["code"], error["message"], error["retryable"], error.get("retryAfterMs"))
    else:
        end = Completed(FinishReason(finish_reason), provider_reason, _usage(input_tokens, output_tokens))
    return Reply(epoch, text_of(parts), end)


def reply_columns(reply: Reply) -> dict[str, object]:
    """Return the parameters of `FINISH`: the message's columns, its characters and the charged tokens."""
    charged_input, charged_output = charged(reply)
    return {
        "epoch": reply.epoch,
        "status": reply.status.value,
        "parts": Jsonb([{"type": "text", "text": reply.text}] if reply.text else []),
        "characters": len(reply.text),
        "charged_input": charged_input,
        "charged_output": charged_output,
    } | _end_columns(reply.end)


def answer_column(reply: Reply | None) -> Jsonb | None:
    """Return a cached reply as the JSON argument of `begin_session`. Only a completed reply is cached."""
    if reply is None:
        return None
    end = reply.end
    assert isinstance(end, Completed)
    assert reply.cacheable
    return Jsonb(
        {
            "epoch": reply.epoch,
            "text": reply.text,
            "providerReason": end.provider_reason,
            "inputTokens": end.usage.input_tokens if end.usage else None,
            "outputTokens": end.usage.output_tokens if end.usage else None,
        }
    )


def _end_columns(end: End) -> dict[str, object]:
    if isinstance(end, Failed):
        error = {"code": end.code, "message": end.message, "retryable": end.retryable}
        if end.retry_after_ms is not None:
            error["retryAfterMs"] = end.retry_after_ms
        return {
            "finish_reason": None,
            "provider_reason": None,
            "error": Jsonb(error),
            "input_tokens": None,
            "output_tokens": None,
        }
    return {
        "finish_reason": end.finish_reason.value,
        "provider_reason": end.provider_reason,
        "error": None,
        "input_tokens": end.usage.input_tokens if end.usage else None,
        "output_tokens": end.usage.output_tokens if end.usage else None,
    }


def message_of(chat_id: str, row: Sequence[Any]) -> Message:
    """Return the message of the columns from `m.id` on in a row of `HISTORY`."""
    (
        message_id, position, role, status, parts, created_at, completed_at, model_id,
        reply_to, superseded_by, source, finish_reason, error, input_tokens, output_tokens,
    ) = row  # fmt: skip
    return Message(
        id=message_id,
        chat_id=chat_id,
        position=position,
        role=_ROLES[role],
        status=_STATUSES[status],
        text=text_of(parts),
        created_at=created_at,
        completed_at=completed_at,
        model_id=model_id,
        reply_to=reply_to,
        superseded_by=superseded_by,
        source=source,
        finish_reason=finish_reason,
        error_code=error["code"] if error else None,
        usage=_usage(input_tokens, output_tokens),
    )


def text_of(parts: Sequence[Mapping[str, str]]) -> str:
    """Return the concatenated text of a message's parts. Cursors count its characters."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]  # no copy of a long reply: nearly every message has one part
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _usage(input_tokens: int | None, output_tokens: int | None) -> Usage | None:
    if input_tokens is None or output_tokens is None:
        return None
    return Usage(input_tokens, output_tokens)
