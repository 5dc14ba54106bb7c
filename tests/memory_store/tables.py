"""What a store remembers, in this process's memory: the tables behind `MemoryStore`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from parley.domain.access import Caller, Role
from parley.domain.conversation import Message, Model, Reply, SessionState
from parley.domain.conversation import Role as Author
from parley.domain.events import Completed, End, Failed, Status, Usage, status_of
from parley.domain.limits import KEPT_AFTER_END, ORPHANED_AFTER, Allowance
from parley.domain.start import NOBODY_CAME


@dataclass(slots=True)
class PlanRow:
    """A plan."""

    title: str
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(slots=True)
class UserRow:
    """A user on a plan."""

    plan: str
    disabled: bool = False


@dataclass(slots=True)
class ModelRow:
    """A model of the catalogue, and the ids of the plans that include it."""

    model: Model
    plans: tuple[str, ...]
    enabled: bool = True


@dataclass(slots=True)
class ChatRow:
    """A chat; `next_position` is its next message's, `characters` how much text it holds."""

    id: str
    owner_id: str
    title: str
    model_id: str
    created_at: datetime
    updated_at: datetime
    next_position: int = 1
    characters: int = 0
    revision: int = 0


@dataclass(slots=True)
class MessageRow:
    """A message. `end` is there once an assistant's reply ended."""

    id: str
    chat_id: str
    position: int
    role: Author
    created_at: datetime
    text: str = ""
    model_id: str | None = None
    reply_to: str | None = None
    superseded_by: str | None = None
    source: str | None = None
    epoch: int = 0
    revision: int = 0
    end: End | None = None
    completed_at: datetime | None = None

    @property
    def reply(self) -> Reply:
        """The reply that this message holds."""
        assert self.end is not None
        return Reply(self.epoch, self.text, self.end)

    def message(self) -> Message:
        """Return the message as a history shows it."""
        status = Status.COMPLETE if self.role is Author.USER else Status.PENDING
        completed = self.end if isinstance(self.end, Completed) else None
        return Message(
            id=self.id,
            chat_id=self.chat_id,
            position=self.position,
            role=self.role,
            status=status if self.end is None else status_of(self.end),
            text=self.text,
            created_at=self.created_at,
            completed_at=self.completed_at,
            model_id=self.model_id,
            reply_to=self.reply_to,
            superseded_by=self.superseded_by,
            source=self.source,
            finish_reason=completed.finish_reason.value if completed else None,
            error_code=self.end.code if isinstance(self.end, Failed) else None,
            usage=completed.usage if completed else None,
        )


@dataclass(slots=True)
class SessionRow:
    """A session with its lease; `reserved` are the input and output tokens set aside for it.

    `prepaid` is taken off what it is charged at its end, which is `charged`.
    """

    id: str
    user_id: str
    chat_id: str
    message_id: str
    reply_id: str
    model_id: str
    regenerate: bool
    idempotency_key: str | None
    request_hash: str
    created_at: datetime
    expires_at: datetime
    reserved: tuple[int, int]
    asked_model: bool = False
    prepaid: tuple[int, int] = (0, 0)
    charged: tuple[int, int] | None = None
    state: SessionState = SessionState.OPEN
    generation_key: str | None = None
    epoch: int = 0
    owner: str | None = None
    lease_until: datetime | None = None
    stop_requested: bool = False

    def leased(self, now: datetime, besides: str | None = None) -> bool:
        """Tell whether some process, other than `besides`, vouches for this session."""
        return self.lease_until is not None and self.lease_until > now and self.owner != besides


@dataclass
class MemoryDatabase:
    """Tables and a clock, which the stores of several processes may share."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    plans: dict[str, PlanRow] = field(default_factory=dict)
    default_plan: str | None = None
    models: dict[str, ModelRow] = field(default_factory=dict)
    users: dict[str, UserRow] = field(default_factory=dict)
    chats: dict[str, ChatRow] = field(default_factory=dict)
    messages: dict[str, MessageRow] = field(default_factory=dict)
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    usage: dict[tuple[str, date, str], Usage] = field(default_factory=dict)

    def caller(self, user_id: str, role: Role | None) -> Caller:
        """Return a user as the caller of something; whoever does not exist has no role."""
        row = self.users.get(user_id)
        return Caller(None) if row is None else Caller(role, row.disabled)

    def messages_of(self, chat_id: str) -> list[MessageRow]:
        """Return a chat's messages in order."""
        found = [message for message in self.messages.values() if message.chat_id == chat_id]
        return sorted(found, key=lambda message: message.position)

    def add_message(self, chat: ChatRow, message_id: str, role: Author, now: datetime) -> MessageRow:
        """Add a message at the chat's end."""
        message = MessageRow(message_id, chat.id, chat.next_position, role, now, revision=chat.revision)
        chat.next_position += 1
        self.messages[message_id] = message
        return message

    def answering(self, chat_id: str) -> SessionRow | None:
        """Return the session of a chat that has not ended."""
        return next((row for row in self.unended() if row.chat_id == chat_id), None)

    def active(self, chat_id: str) -> str | None:
        """Return the id of a chat's session that can be read, or will be."""
        row = self.answering(chat_id)
        if row is None or (row.state is SessionState.OPEN and row.expires_at <= self.clock()):
            return None
        return row.id

    def unended(self) -> Iterator[SessionRow]:
        """Return the sessions that have not ended."""
        return (row for row in self.sessions.values() if row.state is not SessionState.ENDED)

    def running(self, user_id: str) -> list[SessionRow]:
        """Return the sessions of a user that wait for their reader, or have one."""
        now = self.clock()
        return [
            row
            for row in self.unended()
            if row.user_id == user_id
            and (
                row.expires_at > now
                if row.state is SessionState.OPEN
                else row.lease_until is not None and row.lease_until > now - ORPHANED_AFTER
            )
        ]

    def charge(self, row: SessionRow, tokens: tuple[int, int]) -> None:
        """Charge a session's user for what its end has cost, less what is prepaid."""
        row.charged = (max(tokens[0] - row.prepaid[0], 0), max(tokens[1] - row.prepaid[1], 0))
        if row.asked_model or any(row.charged):
            key = (row.user_id, self.clock().astimezone(UTC).date(), row.model_id)
            used = self.usage.get(key, Usage(0, 0))
            self.usage[key] = Usage(used.input_tokens + row.charged[0], used.output_tokens + row.charged[1])

    def used(self, user_id: str, day: date) -> int:
        """Return the tokens that a user has used on a day."""
        return sum(
            usage.input_tokens + usage.output_tokens
            for (user, on, _), usage in self.usage.items()
            if (user, on) == (user_id, day)
        )

    def end(self, row: SessionRow, reply: Reply, source: str) -> None:
        """End a session with its reply."""
        now = self.clock()
        chat = self.chats[row.chat_id]
        chat.revision += 1
        row.state, row.epoch, row.lease_until = SessionState.ENDED, reply.epoch, None
        row.expires_at = max(row.expires_at, now + KEPT_AFTER_END)
        message = self.messages[row.reply_id]
        message.text, message.epoch, message.end = reply.text, reply.epoch, reply.end
        message.source, message.completed_at, message.revision = source, now, chat.revision
        if row.regenerate and reply.answers:
            self.supersede(row.chat_id, row.message_id, row.reply_id)
        chat.updated_at, chat.characters = now, chat.characters + len(reply.text)

    def supersede(
        self, chat_id: str, message_id: str, reply_id: str, *, failures_alone: bool = False
    ) -> None:
        """Have a reply take the place of the others to its question, or of those that do not answer it."""
        for message in self.messages_of(chat_id):
            stands = message.id != reply_id and message.end is not None and message.superseded_by is None
            if stands and message.reply_to == message_id and not (failures_alone and message.reply.answers):
                message.superseded_by, message.revision = reply_id, self.chats[chat_id].revision

    def expire(self, row: SessionRow) -> None:
        """End a session that nobody ever read."""
        reply = self.messages[row.reply_id]
        chat = self.chats[row.chat_id]
        chat.revision += 1
        reply.end, reply.completed_at, reply.revision = NOBODY_CAME, self.clock(), chat.revision
        row.state = SessionState.ENDED

    def delete_chat(self, chat_id: str) -> None:
        """Delete a chat with all that belongs to it."""
        del self.chats[chat_id]
        for message in self.messages_of(chat_id):
            del self.messages[message.id]
        for session in [row for row in self.sessions.values() if row.chat_id == chat_id]:
            del self.sessions[session.id]
