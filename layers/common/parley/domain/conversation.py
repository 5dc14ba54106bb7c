"""What a chat is made of, as values: models, turns, messages, sessions."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from parley.domain.events import Completed, End, FinishReason, Status, Usage, status_of
from parley.support.encoding import is_blank


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class Turn(Struct, frozen=True):
    """One message as a model sees it."""

    role: Role
    text: str


class ModelOptions(Struct, frozen=True):
    """How a model's server wants to be asked, where that is not as the settings and the host's name say.

    `context_tokens` bounds what is sent, in place of `context_characters`. `attempts` and
    `first_token_seconds` are for this model what PROVIDER_ATTEMPTS and PROVIDER_FIRST_TOKEN_SECONDS are for
    all. `output_limit` is the name of the field for `max_output_tokens`; `stream_usage` False asks for no
    usage.
    """

    context_tokens: int | None = None
    attempts: int | None = None
    first_token_seconds: float | None = None
    output_limit: str | None = None
    stream_usage: bool | None = None


class Model(Struct, frozen=True):
    """A model that users can choose: `name` is what `provider` calls it.

    `context_characters` bounds what is sent, in code points. `parameters` go to the provider as
    they are (temperature and its like).
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
    """A model as the catalogue has it; `version` is another one after any change to it."""

    version: str
    model: Model


class OfferedModel(Struct, frozen=True):
    """A model as one user sees it; `in_plan` says whether the user's plan includes it."""

    id: str
    title: str
    provider: str
    in_plan: bool
    plans: tuple[str, ...]


class Reply(Struct, frozen=True):
    """A reply with its end: what one epoch of a generation produced for one session."""

    epoch: int
    text: str
    end: End

    @property
    def status(self) -> Status:
        """The status of the message that holds this reply."""
        return status_of(self.end)

    @property
    def cacheable(self) -> bool:
        """Whether another asker may be given this reply: only a natural end with text to see."""
        return (
            not is_blank(self.text)
            and isinstance(self.end, Completed)
            and self.end.finish_reason is FinishReason.STOP
        )


class Message(Struct, frozen=True):
    """A message of a chat. `text` of a pending reply is empty: its log has it."""

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
    """One page of a chat's messages, oldest first; `next_before` leads to the older ones."""

    chat_id: str
    title: str
    messages: tuple[Message, ...]
    next_before: str | None
    active_session_id: str | None


class ChatSummary(Struct, frozen=True):
    """A chat as a list shows it."""

    chat_id: str
    title: str
    model_id: str | None
    created_at: datetime
    updated_at: datetime
    active_session_id: str | None


class ChatPage(Struct, frozen=True):
    """One page of a user's chats, the latest first."""

    chats: tuple[ChatSummary, ...]
    next_before: str | None


class NewSession(Struct, frozen=True):
    """A request to have a prompt answered.

    `session_id` and the other ids are made by the caller, so that carrying out the same order twice
    (a retry after a lost connection) finds the first one's work. `answer` is the reply that is known
    already, of the version of the model that is `model_version`; only a new chat's question may have one.
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

    @property
    def context_free(self) -> bool:
        """Whether the prompt and the model are all there is to the question."""
        return self.chat_id is None and not self.regenerate


class Started(Struct, frozen=True):
    """An opened session.

    `answered` says that it was opened with the order's answer, and has ended. `model` is the order's model,
    if the order did not know its present version.
    """

    session_id: str
    chat_id: str
    message_id: str
    reply_id: str
    expires_at: datetime
    answered: bool = False
    model: CatalogueEntry | None = None


class SessionState(StrEnum):
    """Where a session stands: opened, being answered by some process, or ended."""

    OPEN = "open"
    STREAMING = "streaming"
    ENDED = "ended"


class Session(Struct, frozen=True):
    """A session with what is needed to answer it.

    `epoch` is 0 until a generation was attached. `leased` says that some other process vouched for it
    recently, by the database's clock. `reply` is there once the session ended, and `source` where it came
    from then.
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
    generation_key: str | None = None
    reply: Reply | None = None
    source: str | None = None

    def follows(self, key: str, epoch: int) -> bool:
        """Tell whether it follows this epoch of a generation already, and some other process vouches for it.

        What changes after that is told by the generation's log, by the next pulse and by the end.
        """
        return self.leased and self.generation_key == key and self.epoch == epoch
