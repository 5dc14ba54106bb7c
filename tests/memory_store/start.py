"""How `MemoryStore` opens a session: it reads the snapshot, and carries the plan out."""

from datetime import UTC

from parley.domain.access import Caller, Role
from parley.domain.conversation import CatalogueEntry, NewSession, Started
from parley.domain.conversation import Role as Author
from parley.domain.errors import NotFound, ParleyError
from parley.domain.limits import REQUEST_WINDOW, Allowance, Use, bounds_of
from parley.domain.start import (
    ChatState,
    EarlierStart,
    ModelState,
    Question,
    StartPlan,
    StartSnapshot,
    decide,
)
from tests.memory_store.tables import ChatRow, MemoryDatabase, SessionRow, UserRow


def start(tables: MemoryDatabase, new_session: NewSession, *, session_seconds: float) -> Started:
    """Carry out `ports.Store.start`."""
    if new_session.user_id not in tables.users:
        raise NotFound
    outcome = decide(_snapshot(tables, new_session), new_session, session_seconds)
    if isinstance(outcome, ParleyError):
        raise outcome
    if isinstance(outcome, Started):
        return outcome
    _write(tables, new_session, outcome)
    return outcome.started


def _snapshot(tables: MemoryDatabase, new_session: NewSession) -> StartSnapshot:
    user = tables.users[new_session.user_id]
    allowance = tables.plans[user.plan].allowance
    model = tables.models.get(new_session.model_id)
    if model is not None and not model.enabled:
        model = None
    return StartSnapshot(
        now=tables.clock(),
        caller=Caller(Role.OWNER, user.disabled),
        allowance=allowance,
        use=_use(tables, new_session.user_id, allowance),
        model=None
        if model is None
        else ModelState(
            repr(model),
            bounds_of(model.model),
            user.plan in model.plans,
            CatalogueEntry(repr(model), model.model),
        ),
        earlier=_earlier(tables, new_session),
        chat=_chat(tables, new_session, user),
        question=_question(tables, new_session),
    )


def _use(tables: MemoryDatabase, user_id: str, allowance: Allowance) -> Use:
    now = tables.clock()
    times = sorted(
        (
            row.created_at
            for row in tables.sessions.values()
            if row.user_id == user_id and row.created_at > now - REQUEST_WINDOW
        ),
        reverse=True,
    )[: allowance.requests_per_minute]
    running = tables.running(user_id)
    return Use(
        requests=len(times),
        oldest_request=times[-1] if times else None,
        streams=len(running),
        reserved=sum(sum(row.reserved) for row in running),
        tokens=tables.used(user_id, now.astimezone(UTC).date()),
    )


def _earlier(tables: MemoryDatabase, new_session: NewSession) -> EarlierStart | None:
    row = tables.sessions.get(new_session.new_session_id)
    if row is None and new_session.idempotency_key is not None:
        wanted = (new_session.user_id, new_session.idempotency_key)
        rows = tables.sessions.values()
        row = next((row for row in rows if (row.user_id, row.idempotency_key) == wanted), None)
    if row is None:
        return None
    started = Started(row.id, row.chat_id, row.message_id, row.reply_id, row.expires_at)
    cached = tables.messages[row.reply_id].source == "cache"
    return EarlierStart(row.user_id, row.request_hash, started, cached)


def _chat(tables: MemoryDatabase, new_session: NewSession, user: UserRow) -> ChatState | None:
    chat = tables.chats.get(new_session.chat_id or "")
    if chat is None:
        return None
    active = tables.answering(chat.id)
    role = Role.OWNER if chat.owner_id == new_session.user_id else None
    return ChatState(
        Caller(role, user.disabled),
        chat.next_position,
        chat.characters,
        None if active is None else active.id,
        active is not None and tables.active(chat.id) is None,
        chat.revision,
        _latest(tables, chat.id),
    )


def _latest(tables: MemoryDatabase, chat_id: str) -> tuple[str, ...]:
    latest: list[str] = []
    for message in tables.messages_of(chat_id):
        if message.role is Author.USER:
            latest.clear()
        elif message.superseded_by is None:
            latest.append(message.id)
    return tuple(latest)


def _question(tables: MemoryDatabase, new_session: NewSession) -> Question | None:
    if not new_session.regenerate or new_session.chat_id is None:
        return None
    asked = [message for message in tables.messages_of(new_session.chat_id) if message.role is Author.USER]
    return Question(asked[-1].id, asked[-1].text) if asked else None


def _write(tables: MemoryDatabase, new_session: NewSession, plan: StartPlan) -> None:
    started, now = plan.started, plan.now
    if plan.expired is not None:
        tables.expire(tables.sessions[plan.expired])
    if new_session.chat_id is None:
        tables.chats[started.chat_id] = ChatRow(
            started.chat_id, new_session.user_id, new_session.title, new_session.model_id, now, now
        )
    chat = tables.chats[started.chat_id]
    chat.updated_at, chat.model_id, chat.revision = now, new_session.model_id, plan.revision
    if plan.added is not None:
        question = tables.add_message(chat, started.message_id, Author.USER, now)
        question.text, question.completed_at = new_session.prompt or "", now
        chat.characters += plan.added
    else:
        tables.supersede(chat.id, started.message_id, started.reply_id, failures_alone=True)
    reply = tables.add_message(chat, started.reply_id, Author.ASSISTANT, now)
    reply.model_id, reply.reply_to = new_session.model_id, started.message_id
    session = tables.sessions[started.session_id] = SessionRow(
        id=started.session_id,
        user_id=new_session.user_id,
        chat_id=chat.id,
        message_id=started.message_id,
        reply_id=reply.id,
        model_id=new_session.model_id,
        regenerate=new_session.regenerate,
        idempotency_key=new_session.idempotency_key,
        request_hash=new_session.request_hash,
        created_at=now,
        expires_at=started.expires_at,
        reserved=plan.reserved,
    )
    if plan.answer is not None:
        tables.end(session, plan.answer, "cache")
