"""Decides what a start does, from one snapshot of the store: the rules of a start, for every store.

A store reads the snapshot under a lock on the user, and on the chat, so that no other start of theirs comes
between the snapshot and what the plan writes.
"""

from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from parley.domain import access
from parley.domain.access import Caller, Right
from parley.domain.conversation import CatalogueEntry, NewSession, Reply, Started
from parley.domain.errors import (
    ChatBusy,
    ChatMoved,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotInPlan,
    ParleyError,
    UnknownModel,
)
from parley.domain.events import Failed
from parley.domain.limits import KEPT_AFTER_END, Allowance, Bounds, Use, limit_reached, reserved

# The end of a reply that nobody came for.
NOBODY_CAME = Failed("session_expired", "Nobody came to read this reply.", retryable=True)


class EarlierStart(Struct, frozen=True):
    """A session of the same id, or of the same user and idempotency key.

    `cached` says that it has ended with a reply of the cache.
    """

    user_id: str
    request_hash: str
    started: Started
    cached: bool


class ChatState(Struct, frozen=True):
    """The chat that is asked in. `characters` is the length of its messages, in code points.

    `active` is its session that has not ended, `nobody_came` whether that one has expired unread. `latest`
    are the replies to the last question that no other takes the place of, oldest first; it may be empty
    where the request names no reply.
    """

    caller: Caller
    next_position: int
    characters: int
    active: str | None = None
    nobody_came: bool = False
    revision: int = 0
    latest: tuple[str, ...] = ()


class Question(Struct, frozen=True):
    """The last question of a chat."""

    message_id: str
    text: str


class ModelState(Struct, frozen=True):
    """The model that is asked. `current` is there where the request names another version of it, or none."""

    version: str
    bounds: Bounds
    in_plan: bool
    current: CatalogueEntry | None = None


class StartSnapshot(Struct, frozen=True):
    """All that a start depends on, under its locks. `now` is the store's clock.

    `chat` and `question` are None where the request names no chat, or does not regenerate.
    """

    now: datetime
    caller: Caller
    allowance: Allowance
    use: Use
    model: ModelState | None
    earlier: EarlierStart | None = None
    chat: ChatState | None = None
    question: Question | None = None


class StartPlan(Struct, frozen=True):
    """What a start writes, all in one transaction.

    - `started`: the result.
    - `position`: of the first message that is written.
    - `revision`: the chat's, and that of all that is written.
    - `added`: the code points of the question that is written; None if an earlier one is answered again.
    - `reserved`: input and output tokens.
    - `answer`: the reply to save, where it is known.
    - `expired`: a session that nobody came for, which ends with `NOBODY_CAME`.
    """

    now: datetime
    started: Started
    position: int
    added: int | None
    reserved: tuple[int, int]
    answer: Reply | None = None
    expired: str | None = None
    revision: int = 1


def decide(
    snapshot: StartSnapshot, new_session: NewSession, session_seconds: float
) -> StartPlan | Started | ParleyError:
    """Return what to write; the result of a start that is there already; or why the start is refused.

    A session can be opened for `session_seconds`.
    """
    try:
        return _decide(snapshot, new_session, timedelta(seconds=session_seconds))
    except ParleyError as refused:
        return refused


def _decide(snapshot: StartSnapshot, new_session: NewSession, session_time: timedelta) -> StartPlan | Started:
    access.require(snapshot.caller, Right.ASK)
    model = snapshot.model
    # A known reply belongs to a version of the model, so the caller is told the current one.
    known = model is not None and model.version == new_session.model_version
    told = model.current if model is not None and new_session.context_free and not known else None
    if snapshot.earlier is not None:
        # Before all limits: what was started already is not refused when it is repeated.
        return _repeated(snapshot.earlier, new_session, told)
    if model is None:
        raise UnknownModel
    if not model.in_plan:
        raise ModelNotInPlan
    expired = _require_chat(snapshot.chat, new_session)
    chat = snapshot.chat
    asked = _asked_before(snapshot.question, new_session)
    added = 0 if asked else len(new_session.prompt or "")
    reserve = reserved(model.bounds, chat.characters if chat else 0, added)
    reached = limit_reached(snapshot.allowance, snapshot.use, sum(reserve), snapshot.now)
    if reached is not None:
        raise reached
    answer = new_session.answer if new_session.context_free and known else None
    return StartPlan(
        now=snapshot.now,
        started=Started(
            new_session.new_session_id,
            new_session.chat_id or new_session.new_chat_id,
            asked.message_id if asked else new_session.new_message_id,
            new_session.new_reply_id,
            snapshot.now + (session_time if answer is None else max(session_time, KEPT_AFTER_END)),
            answered=answer is not None,
            model=told,
        ),
        position=chat.next_position if chat else 1,
        added=None if asked else added,
        reserved=reserve,
        answer=answer,
        expired=expired,
        revision=chat.revision + 1 if chat else 1,
    )


def _repeated(earlier: EarlierStart, new_session: NewSession, told: CatalogueEntry | None) -> Started:
    if earlier.user_id != new_session.user_id or earlier.request_hash != new_session.request_hash:
        raise IdempotencyConflict
    # Only the same order, run again after its connection was lost, was answered by itself.
    answered = earlier.cached and earlier.started.session_id == new_session.new_session_id
    return replace(earlier.started, answered=answered, model=told)


def _require_chat(chat: ChatState | None, new_session: NewSession) -> str | None:
    """Return the session that this start ends, because nobody came for it."""
    if new_session.chat_id is None:
        return None
    access.require(chat.caller if chat else Caller(None), Right.ASK)
    assert chat is not None
    if chat.active is not None and not chat.nobody_came:
        raise ChatBusy(chat.active)
    _require_latest(chat, new_session)
    return chat.active


def _require_latest(chat: ChatState, new_session: NewSession) -> None:
    """Refuse a start whose user does not know the chat's end, since it would go on from what nobody saw.

    Several replies may stand at the end: a good one, and failures beside it that are no context. A question
    may follow any of them. What is replaced is the newest.
    """
    if new_session.parent_id is not None and new_session.parent_id not in chat.latest:
        raise ChatMoved(new_session.parent_id)
    if new_session.replaces is not None and new_session.replaces != next(reversed(chat.latest), None):
        raise ChatMoved(new_session.replaces)


def _asked_before(question: Question | None, new_session: NewSession) -> Question | None:
    """Return the question that is answered again; None for a new one."""
    if not new_session.regenerate or new_session.chat_id is None:
        return None
    if question is None:
        raise InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
    if new_session.prompt is not None and new_session.prompt != question.text:
        raise InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
    return question
