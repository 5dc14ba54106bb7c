"""Defines the values of a chat: models, turns, messages, sessions."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from parley.domain.events import Completed, End, FinishReason, Status, Usage, status_of
from parley.support.encoding import is_blank


class Role(StrEnum):
    """The author of a message."""

    USER = "user"
    ASSISTANT = "assistant"


class Turn(Struct, frozen=True):
    """One message as a model sees it.

    `message_id`, and `above`, the number of messages above it in the chat, are for us alone and no part of
    the question.
    """

    role: Role
    text: str
    message_id: str = ""
    above: int = 0


class LeftOut(Struct, frozen=True):
    """The earlier turns of a chat that a model is not sent, because its context does not take them.

    `messages` counts all that stand above the first one that is sent, `first_sent` is that one's id.
    """

    messages: int
    first_sent: str


class ModelOptions(Struct, frozen=True):
    """Overrides for one model's server, where the settings and the host's name do not suit it.

    - `context_tokens`: bounds the request, in tokens, in place of `context_characters`.
    - `attempts`: replaces PROVIDER_ATTEMPTS for this model.
    - `first_token_seconds`: replaces PROVIDER_FIRST_TOKEN_SECONDS for this model.
    - `output_limit`: the name of the request's field for `max_output_tokens`.
    - `stream_usage`: False requests no usage.
    """

    context_tokens: int | None = None
    attempts: int | None = None
    first_token_seconds: float | None = None
    output_limit: str | None = None
    stream_usage: bool | None = None


# A test holds that these are the adapters (providers/registry.py).
PROVIDERS = frozenset({"anthropic", "demo", "openai", "xai"})


class Model(Struct, frozen=True):
    """A model that users can choose. `name` is the provider's name for it.

    `context_characters` bounds the request, in code points. `parameters` go to the provider unchanged
    (temperature and the like).
    """

    id: str
    provider: str
    name: str
    title: str
    max_output_tokens: int
    context_characters: int
    system_prompt: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    options: ModelOptions = ModelOptions()


class CatalogueEntry(Struct, frozen=True):
    """A model in the catalogue. `version` differs after any change to the model."""

    version: str
    model: Model


class OfferedModel(Struct, frozen=True):
    """A model as one user sees it. `in_plan` says whether the user's plan includes it."""

    id: str
    title: str
    provider: str
    in_plan: bool
    plans: tuple[str, ...]


class Reply(Struct, frozen=True):
    """A reply with its end, which one epoch of a generation produced for one session."""

    epoch: int
    text: str
    end: End

    @property
    def status(self) -> Status:
        """The status of the message that holds this reply."""
        return status_of(self.end)

    @property
    def answers(self) -> bool:
        """Whether this reply answers its question, and may take the place of an earlier reply to it.

        A reply that failed, was filtered or shows nothing stands beside the earlier one.
        """
        return (
            not is_blank(self.text)
            and isinstance(self.end, Completed)
            and self.end.finish_reason is not FinishReason.CONTENT_FILTER
        )

    @property
    def cacheable(self) -> bool:
        """Whether other users may be given this reply: it ended naturally and has visible text."""
        return (
            self.answers and isinstance(self.end, Completed) and self.end.finish_reason is FinishReason.STOP
        )


class Message(Struct, frozen=True):
    """A message of a chat. The `text` of a pending reply is empty, because its log has the text."""

    id: str
    chat_id: str
    position: int
    role: Role
    status: Status
    text: str
    created_at: datetime
    completed_at: datetime | None = None
    model_id: str | None = None
    reply_to: str | None = None
    superseded_by: str | None = None
    source: str | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    usage: Usage | None = None


class Page(Struct, frozen=True):
    """One page of a chat's messages, oldest first. `next_before` asks for the page of older messages.

    `revision` is the chat's: it grows in every transaction that writes to the chat.
    """

    chat_id: str
    title: str
    messages: tuple[Message, ...]
    next_before: str | None
    active_session_id: str | None
    revision: int = 0


class ChatSummary(Struct, frozen=True):
    """A chat as a list shows it."""

    chat_id: str
    title: str
    model_id: str | None
    created_at: datetime
    updated_at: datetime
    active_session_id: str | None


class ChatPage(Struct, frozen=True):
    """One page of a user's chats, latest first. `next_before` asks for the page of older chats."""

    chats: tuple[ChatSummary, ...]
    next_before: str | None


class NewSession(Struct, frozen=True):
    """A command to open a session for a prompt.

    The caller makes `new_session_id` and the other new ids. A second run of the same command (a retry after a
    lost connection) thus finds the first one's work. `answer` is a reply from the cache, made with the
    model's version `model_version`; only the question of a new chat may have one. `parent_id` is the last
    message that the user knows, `replaces` the reply that is asked for anew; None leaves it unchecked.
    """

    user_id: str
    prompt: str | None
    model_id: str
    chat_id: str | None
    regenerate: bool
    idempotency_key: str | None
    request_hash: str
    title: str
    new_session_id: str
    new_chat_id: str
    new_message_id: str
    new_reply_id: str
    model_version: str | None = None
    answer: Reply | None = None
    parent_id: str | None = None
    replaces: str | None = None

    @property
    def names_a_reply(self) -> bool:
        """Whether the command names the reply that it follows or replaces."""
        return self.parent_id is not None or self.replaces is not None

    @property
    def context_free(self) -> bool:
        """Whether the question consists of the prompt and the model alone."""
        return self.chat_id is None and not self.regenerate


class Started(Struct, frozen=True):
    """An opened session.

    `answered` says that the session opened with its cached answer, and has ended. `model` is the current
    model, if the new session named another version or none.
    """

    session_id: str
    chat_id: str
    message_id: str
    reply_id: str
    expires_at: datetime
    answered: bool = False
    model: CatalogueEntry | None = None


class SessionState(StrEnum):
    """A session's state: opened, being answered by a process, or ended."""

    OPEN = "open"
    STREAMING = "streaming"
    ENDED = "ended"


class Session(Struct, frozen=True):
    """A session with all that is needed to answer it.

    `epoch` is 0 until a generation is attached. `leased` says that another process holds the session's lease,
    by the database's clock. `earlier` counts the messages before `turns`, which no model would take. `reply`
    is set once the session has ended; `source` then says where it came from.
    """

    id: str
    user_id: str
    chat_id: str
    message_id: str
    reply_id: str
    state: SessionState
    regenerate: bool
    epoch: int
    leased: bool
    model: Model
    turns: tuple[Turn, ...] = ()
    earlier: int = 0
    generation_key: str | None = None
    reply: Reply | None = None
    source: str | None = None

    def follows(self, key: str, epoch: int) -> bool:
        """Tell whether the session follows this epoch of a generation already, under another process's lease.

        The generation's log, the next renewal of leases and the end tell of later changes.
        """
        return self.leased and self.generation_key == key and self.epoch == epoch
