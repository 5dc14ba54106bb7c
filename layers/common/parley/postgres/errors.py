"""Translates the outcomes of the SQL function `begin_session` into Parley's errors."""

from parley.domain.errors import (
    ChatBusy,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotInPlan,
    NotFound,
    ParleyError,
    UnknownModel,
    UserDisabled,
)
from parley.domain.limits import limit_exceeded
from parley.postgres.prepared import Row


def error_of(row: Row) -> ParleyError:
    """Return the error for a row of `begin_session` whose outcome is not `started`."""
    outcome, session_id = row[:2]
    match outcome:
        case "disabled":
            return UserDisabled()
        case "no_model":
            return UnknownModel()
        case "not_in_plan":
            return ModelNotInPlan()
        case "busy":
            return ChatBusy(session_id)
        case "key_reused":
            return IdempotencyConflict()
        case "nothing_asked":
            return InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
        case "other_prompt":
            return InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
        case "limit_requests" | "limit_streams" | "limit_tokens":
            retry_seconds, *left = row[6:10]
            return limit_exceeded(outcome.removeprefix("limit_"), left, retry_seconds)
        # no_user and no_chat: one answer for both, so that a caller cannot learn which ids exist.
        case _:
            return NotFound()
