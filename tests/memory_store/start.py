"""How `MemoryStore` opens a session."""

from datetime import UTC, datetime, time, timedelta

from parley.domain.conversation import CatalogueEntry, Model, Order, Role, SessionState, Started
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


def start(tables: MemoryDatabase, order: Order, *, session_seconds: float, create_users: bool) -> Started:
    """Carry out `ports.Store.start`."""
    if create_users and tables.default_plan is not None:
        tables.users.setdefault(order.user_id, UserRow(tables.default_plan))
    user = tables.user(order.user_id)
    row = _started_before(tables, order)
    if row is None:
        model = _model_of(tables, order.model_id, user)
        chat = _chat_of(tables, order)
        asked = _asked_before(tables, order)
        added = 0 if asked else len(order.prompt or "")
        reserve = reserved(model, chat.characters, added)
        _check_limits(tables, order.user_id, tables.plans[user.plan].allowance, sum(reserve))
        question = _ask_again(tables, order, asked) if asked else _ask(tables, order, chat)
        row = _open(tables, order, chat, question, session_seconds, reserve)
        entry = _entry(tables, order)
        if order.answer is not None and entry is not None and entry.version == order.model_version:
            tables.end(row, order.answer, "cache")
    elif row.user_id != order.user_id or row.request_hash != order.request_hash:
        raise IdempotencyConflict
    return _started(tables, order, row)


def _started(tables: MemoryDatabase, order: Order, row: SessionRow) -> Started:
    cached = row.state is SessionState.ENDED and tables.messages[row.reply_id].source == "cache"
    entry = _entry(tables, order)
    return Started(
        row.id,
        row.chat_id,
        row.message_id,
        row.reply_id,
        row.expires_at,
        answered=cached and row.id == order.new_session_id,
        model=None if entry is None or entry.version == order.model_version else entry,
    )


def _entry(tables: MemoryDatabase, order: Order) -> CatalogueEntry | None:
    """Return the model as the order has to know it for an answer; None where it can have none."""
    row = tables.models.get(order.model_id)
    if row is None or not row.enabled or not order.context_free:
        return None
    return CatalogueEntry(repr(row), row.model)


def _started_before(tables: MemoryDatabase, order: Order) -> SessionRow | None:
    found = tables.sessions.get(order.new_session_id)
    if found is None and order.idempotency_key is not None:
        wanted = (order.user_id, order.idempotency_key)
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


def _chat_of(tables: MemoryDatabase, order: Order) -> ChatRow:
    if order.chat_id is None:
        now = tables.clock()
        return ChatRow(order.new_chat_id, order.user_id, order.title, order.model_id, now, now)
    chat = tables.chats.get(order.chat_id)
    if chat is None or chat.owner_id != order.user_id:
        raise NotFound
    answering = tables.answering(chat.id)
    if answering is not None:
        if tables.active(chat.id) is not None:
            raise ChatBusy(answering.id)
        tables.expire(answering)
    return chat


def _asked_before(tables: MemoryDatabase, order: Order) -> MessageRow | None:
    """Return the question that is to be answered anew; None for a new one."""
    if not order.regenerate or order.chat_id is None:
        return None
    asked = [message for message in tables.messages_of(order.chat_id) if message.role is Role.USER]
    if not asked:
        raise InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
    if order.prompt is not None and order.prompt != asked[-1].text:
        raise InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
    return asked[-1]


def _ask(tables: MemoryDatabase, order: Order, chat: ChatRow) -> MessageRow:
    now = tables.clock()
    tables.chats[chat.id] = chat
    question = tables.add_message(chat, order.new_message_id, Role.USER, now)
    question.text, question.completed_at = order.prompt or "", now
    chat.characters += len(question.text)
    return question


def _ask_again(tables: MemoryDatabase, order: Order, asked: MessageRow) -> MessageRow:
    for message in tables.messages_of(asked.chat_id):
        if message.reply_to == asked.id and message.superseded_by is None:
            message.superseded_by = order.new_reply_id
    return asked


def _open(
    tables: MemoryDatabase,
    order: Order,
    chat: ChatRow,
    question: MessageRow,
    session_seconds: float,
    reserve: tuple[int, int],
) -> SessionRow:
    now = tables.clock()
    reply = tables.add_message(chat, order.new_reply_id, Role.ASSISTANT, now)
    reply.model_id, reply.reply_to = order.model_id, question.id
    chat.updated_at, chat.model_id = now, order.model_id
    session = tables.sessions[order.new_session_id] = SessionRow(
        id=order.new_session_id,
        user_id=order.user_id,
        chat_id=chat.id,
        message_id=question.id,
        reply_id=reply.id,
        model_id=order.model_id,
        regenerate=order.regenerate,
        idempotency_key=order.idempotency_key,
        request_hash=order.request_hash,
        created_at=now,
        expires_at=now + timedelta(seconds=session_seconds),
        reserved=reserve,
    )
    return session
