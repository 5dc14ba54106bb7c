"""How `MemoryStore` opens a session."""

from datetime import timedelta

from parley.adapters.memory_tables import ChatRow, MemoryDatabase, MessageRow, SessionRow, UserRow
from parley.conversation import Order, Role, Started
from parley.errors import (
    ChatBusy,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotInPlan,
    NotFound,
    UnknownModel,
)


def start(tables: MemoryDatabase, order: Order, *, session_seconds: float, create_users: bool) -> Started:
    """Carry out `ports.Store.start`."""
    if create_users and tables.default_plan is not None:
        tables.users.setdefault(order.user_id, UserRow(tables.default_plan))
    user = tables.user(order.user_id)
    row = _started_before(tables, order)
    if row is None:
        _check_model(tables, order.model_id, user)
        chat = _chat_of(tables, order)
        row = _open(tables, order, chat, _question_of(tables, order, chat), session_seconds)
    elif row.user_id != order.user_id or row.request_hash != order.request_hash:
        raise IdempotencyConflict
    return Started(row.id, row.chat_id, row.message_id, row.reply_id, row.expires_at)


def _started_before(tables: MemoryDatabase, order: Order) -> SessionRow | None:
    found = tables.sessions.get(order.new_session_id)
    if found is None and order.idempotency_key is not None:
        wanted = (order.user_id, order.idempotency_key)
        rows = tables.sessions.values()
        found = next((row for row in rows if (row.user_id, row.idempotency_key) == wanted), None)
    return found


def _check_model(tables: MemoryDatabase, model_id: str, user: UserRow) -> None:
    row = tables.models.get(model_id)
    if row is None or not row.enabled:
        raise UnknownModel
    if user.plan not in row.plans:
        raise ModelNotInPlan


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


def _question_of(tables: MemoryDatabase, order: Order, chat: ChatRow) -> MessageRow:
    if order.regenerate and order.chat_id is not None:
        return _asked_again(tables, order, chat)
    now = tables.clock()
    tables.chats[chat.id] = chat
    question = tables.add_message(chat, order.new_message_id, Role.USER, now)
    question.text, question.completed_at = order.prompt or "", now
    return question


def _asked_again(tables: MemoryDatabase, order: Order, chat: ChatRow) -> MessageRow:
    messages = tables.messages_of(chat.id)
    asked = [message for message in messages if message.role is Role.USER]
    if not asked:
        raise InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
    if order.prompt is not None and order.prompt != asked[-1].text:
        raise InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
    for message in messages:
        if message.reply_to == asked[-1].id and message.superseded_by is None:
            message.superseded_by = order.new_reply_id
    return asked[-1]


def _open(
    tables: MemoryDatabase, order: Order, chat: ChatRow, question: MessageRow, session_seconds: float
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
        expires_at=now + timedelta(seconds=session_seconds),
    )
    return session
