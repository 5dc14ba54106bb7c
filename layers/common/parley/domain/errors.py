"""Defines every error that Parley raises on purpose, with its code and HTTP status.

ParleyError
├── InvalidRequest      400  a field is missing or wrong; the error names it
│   ├── UnknownModel    400
│   ├── TooLarge        413
│   └── UnsupportedMedia 415
├── Unauthorized        401
├── Forbidden           403
│   ├── UserDisabled    403
│   └── ModelNotInPlan  403
├── NotFound            404  also for another user's things
├── SessionExpired      410
├── Conflict            409
│   ├── ChatBusy        409  the error names the active session
│   ├── ChatMoved       409  the error has what is new in the chat
│   └── IdempotencyConflict 409
├── LimitExceeded       429  the error names the limit of the user's plan, and what is left of each
├── Unavailable         503  a dependency cannot be reached
│   ├── StoreUnavailable
│   └── LogUnavailable       never reaches a client, because streams go on without the log
└── ProviderFault       the provider's failure; ends a generation, never a request
    └── ContextTooLong       fewer turns may help; a single turn cannot be shortened
"""

from typing import ClassVar

from parley.domain.conversation import Page


class ParleyError(Exception):
    """An expected failure. `message` is for the client and quotes no prompt, reply or secret."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def details(self) -> dict[str, object]:
        """Return the fields of `ErrorDetail` (api/schemas.py) besides code, message and retryable."""
        return {"field": self.field} if self.field else {}


class InvalidRequest(ParleyError):
    code = "invalid_request"
    status = 400


class UnknownModel(InvalidRequest):
    code = "unknown_model"

    def __init__(self) -> None:
        super().__init__("modelId names no model of this service.", field="modelId")


class TooLarge(InvalidRequest):
    code = "too_large"
    status = 413


class UnsupportedMedia(InvalidRequest):
    code = "unsupported_media_type"
    status = 415


class Unauthorized(ParleyError):
    code = "unauthorized"
    status = 401


class Forbidden(ParleyError):
    code = "forbidden"
    status = 403


class UserDisabled(Forbidden):
    code = "user_disabled"

    def __init__(self) -> None:
        super().__init__("This user is disabled.")


class ModelNotInPlan(Forbidden):
    code = "model_not_in_plan"

    def __init__(self) -> None:
        super().__init__("The user's plan does not include this model.", field="modelId")


class NotFound(ParleyError):
    code = "not_found"
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such thing here.")


class SessionExpired(ParleyError):
    code = "session_expired"
    status = 410

    def __init__(self) -> None:
        super().__init__("This session has expired; send the prompt again.")


class Conflict(ParleyError):
    code = "conflict"
    status = 409


class ChatBusy(Conflict):
    code = "chat_busy"

    def __init__(self, session_id: str) -> None:
        super().__init__("This chat is still being answered; attach to its session or stop it.")
        self.session_id = session_id

    def details(self) -> dict[str, object]:
        return {"active_session_id": self.session_id}


class ChatMoved(Conflict):
    """The chat went on after the message `known`. `news` has what is new, once the use case has read it."""

    code = "chat_moved"

    def __init__(self, known: str, news: Page | None = None) -> None:
        super().__init__("This chat has gone on elsewhere; look at what is new, then send it again.")
        self.known = known
        self.news = news


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another request.", field="Idempotency-Key")


class LimitExceeded(ParleyError):
    """A limit of the user's plan. `remaining` is what is left of each limit; None means unlimited."""

    code = "rate_limited"
    status = 429
    retryable = True
    _MESSAGES: ClassVar[dict[str, str]] = {
        "requests": "Your plan allows no more questions within a minute.",
        "streams": "Your plan allows no more replies at once; let one of them end, or stop it.",
        "tokens": "Your plan's tokens for today are used, or set aside for the replies being written.",
    }

    def __init__(self, limit: str, remaining: dict[str, int | None], retry_after: float) -> None:
        super().__init__(self._MESSAGES[limit], retry_after=retry_after)
        self.limit = limit
        self.remaining = remaining

    def details(self) -> dict[str, object]:
        return {"limit": self.limit, "remaining": self.remaining}


class Unavailable(ParleyError):
    code = "unavailable"
    status = 503
    retryable = True


class StoreUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__("The database cannot be reached right now.", retry_after=2)


class LogUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__("The log cannot be reached right now.")


class ProviderFault(ParleyError):
    """A provider failed. One table for all adapters chooses `code`, which is kept as `fault`.

    `may_retry` is for the user. `may_repeat` says whether Parley itself may ask again before the first token.
    It is False where the provider accepted the request and was only slow: a second request would work, and
    bill, twice.
    """

    status = 502

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        may_repeat: bool = True,
    ) -> None:
        super().__init__(message, retry_after=None if retry_after_ms is None else retry_after_ms / 1000)
        self.fault = code
        self.may_retry = retryable
        self.may_repeat = may_repeat
        self.retry_after_ms = retry_after_ms


class ContextTooLong(ProviderFault):
    """The question with its earlier turns is longer than the model's context.

    `asked_tokens` and `context_tokens` are the provider's counts of the request and of the model's context.
    None means that the provider did not give both.
    """

    def __init__(self, asked_tokens: int | None = None, context_tokens: int | None = None) -> None:
        super().__init__(
            "context_too_long", "This question is longer than the model takes; shorten it and send it again."
        )
        self.asked_tokens = asked_tokens
        self.context_tokens = context_tokens
