"""How `MemoryStore` opens a session."""

from datetime import UTC, datetime, time, timedelta

from parley.domain.conversation import CatalogueEntry, Model, NewSession, Role, SessionState, Started
from parley.domain.errors import (
    ChatBusy,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotInPlan,
    NotFound,
    UnknownModel,
)
from parley.domain.limits import Allowance, limit_exceeded, reserved
from tests.memory_store.tables import (
    ChatRow,
    MemoryDatabase,
    MessageRow,
    SessionRow,
    UserRow,
)

_MINUTE = timedelta(minutes=1)


def start(
    tables: MemoryDatabase, new_session: NewSession, *, session_seconds: float, create_users: bool
) -> Started:
    """Carry out `ports.Store.start`."""
    if create_users and tables.default_plan is not None:
        tables.users.setdefault(new_session.user_id, UserRow(tables.default_plan))
    user = tables.user(new_session.user_id)
    row = _started_before(tables, new_session)
    if row is None:
        model = _model_of(tables, new_session.model_id, user)
        chat = _chat_of(tables, new_session)
        asked = _asked_before(tables, new_session)
        added = 0 if asked else len(new_session.prompt or "")
        reserve = reserved(model, chat.characters, added)
        _check_limits(tables, new_session.user_id, tables.plans[user.plan].allowance, sum(reserve))
        question = _ask_again(tables, new_session, asked) if asked else _ask(tables, new_session, chat)
        row = _open(tables, new_session, chat, question, session_seconds, reserve)
        entry = _entry(tables, new_session)
        if (
            new_session.answer is not None
            and entry is not None
            and entry.version == new_session.model_version
        ):
            tables.end(row, new_session.answer, "cache")
    elif row.user_id != new_session.user_id or row.request_hash != new_session.request_hash:
        raise IdempotencyConflict
    return _started(tables, new_session, row)


def _started(tables: MemoryDatabase, new_session: NewSession, row: SessionRow) -> Started:
    cached = row.state is SessionState.ENDED and tables.messages[row.reply_id].source == "cache"
    entry = _entry(tables, new_session)
    return Started(
        row.id,
        row.chat_id,
        row.message_id,
        row.reply_id,
        row.expires_at,
        answered=cached and row.id == new_session.new_session_id,
        model=None if entry is None or entry.version == new_session.model_version else entry,
    )


def _entry(tables: MemoryDatabase, new_session: NewSession) -> CatalogueEntry | None:
    """Return the model as the order has to know it for an answer; None where it can have none."""
    row = tables.models.get(new_session.model_id)
    if row is None or not row.enabled or not new_session.context_free:
        return None
    return CatalogueEntry(repr(row), row.model)


def _started_before(tables: MemoryDatabase, new_session: NewSession) -> SessionRow | None:
    found = tables.sessions.get(new_session.new_session_id)
    if found is None and new_session.idempotency_key is not None:
        wanted = (new_session.user_id, new_session.idempotency_key)
        rows = tables.sessions.values()
        found = next((row for row in rows if (row.user_id, row.idempotency_key) == wanted), None)
    return found


def _model_of(tables: MemoryDatabase, model_id: str, user: UserRow) -> Model:
    row = tables.models.get(model_id)
    if row is None or not row.enabled:
        raise UnknownModel
    if user.plan not in row.plans:
        raise ModelNotInPlan
    return row.model


def _check_limits(tables: MemoryDatabase, user_id: str, allowance: Allowance, reserve: int) -> None:
    now = tables.clock().astimezone(UTC)
    running = tables.running(user_id)
    minute = sorted(
        row.created_at
        for row in tables.sessions.values()
        if row.user_id == user_id and row.created_at > now - _MINUTE
    )
    unused = _left(allowance.tokens_per_day, tables.used(user_id, now.date()))
    left = (
        _left(allowance.requests_per_minute, len(minute)),
        _left(allowance.concurrent_streams, len(running)),
        _left(unused, sum(sum(row.reserved) for row in running)),
    )
    requests, streams, tokens = left
    if tokens is not None and unused is not None and tokens < reserve:
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        raise limit_exceeded("tokens", left, (midnight - now).total_seconds() if unused < reserve else None)
    if requests is not None and allowance.requests_per_minute is not None and requests < 1:
        frees = minute[-allowance.requests_per_minute] + _MINUTE
        raise limit_exceeded("requests", left, (frees - now).total_seconds())
    if streams is not None and streams < 1:
        raise limit_exceeded("streams", left, None)


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used


def _chat_of(tables: MemoryDatabase, new_session: NewSession) -> ChatRow:
    if new_session.chat_id is None:
        now = tables.clock()
        return ChatRow(
            new_session.new_chat_id, new_session.user_id, new_session.title, new_session.model_id, now, now
        )
    chat = tables.chats.get(new_session.chat_id)
    if chat is None or chat.owner_id != new_session.user_id:
        raise NotFound
    answering = tables.answering(chat.id)
    if answering is not None:
        if tables.active(chat.id) is not None:
            raise ChatBusy(answering.id)
        tables.expire(answering)
    return chat


def _asked_before(tables: MemoryDatabase, new_session: NewSession) -> MessageRow | None:
    """Return the question that is to be answered anew; None for a new one."""
    if not new_session.regenerate or new_session.chat_id is None:
        return None
    asked = [message for message in tables.messages_of(new_session.chat_id) if message.role is Role.USER]
    if not asked:
        raise InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
    if new_session.prompt is not None and new_session.prompt != asked[-1].text:
        raise InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
    return asked[-1]


def _ask(tables: MemoryDatabase, new_session: NewSession, chat: ChatRow) -> MessageRow:
    now = tables.clock()
    tables.chats[chat.id] = chat
    question = tables.add_message(chat, new_session.new_message_id, Role.USER, now)
    question.text, question.completed_at = new_session.prompt or "", now
    chat.characters += len(question.text)
    return question


def _ask_again(tables: MemoryDatabase, new_session: NewSession, asked: MessageRow) -> MessageRow:
    for message in tables.messages_of(asked.chat_id):
        if message.reply_to == asked.id and message.superseded_by is None:
            message.superseded_by = new_session.new_reply_id
    return asked


def _open(
    tables: MemoryDatabase,
    new_session: NewSession,
    chat: ChatRow,
    question: MessageRow,
    session_seconds: float,
    reserve: tuple[int, int],
) -> SessionRow:
    now = tables.clock()
    reply = tables.add_message(chat, new_session.new_reply_id, Role.ASSISTANT, now)
    reply.model_id, reply.reply_to = new_session.model_id, question.id
    chat.updated_at, chat.model_id = now, new_session.model_id
    session = tables.sessions[new_session.new_session_id] = SessionRow(
        id=new_session.new_session_id,
        user_id=new_session.user_id,
        chat_id=chat.id,
        message_id=question.id,
        reply_id=reply.id,
        model_id=new_session.model_id,
        regenerate=new_session.regenerate,
        idempotency_key=new_session.idempotency_key,
        request_hash=new_session.request_hash,
        created_at=now,
        expires_at=now + timedelta(seconds=session_seconds),
        reserved=reserve,
    )
    return session
