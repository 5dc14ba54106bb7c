"""Names the events of a generation: the vocabulary of models, logs and readers."""

import re
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

_CURSOR = re.compile(r"(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,11})", re.ASCII)


class Cursor(NamedTuple):
    """A reader's progress: `position` code points of the reply that epoch `epoch` produced."""

    epoch: int
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"

    @classmethod
    def parse(cls, value: str) -> "Cursor | None":
        """Read `epoch-position`; None for any other text, because a cursor is a hint and never an error."""
        match = _CURSOR.fullmatch(value)
        return cls(int(match[1]), int(match[2])) if match else None


class FinishReason(StrEnum):
    """The reason why a reply ended without an error."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    STOPPED = "stopped"
    TRUNCATED = "truncated"


class Status(StrEnum):
    """The state of a message."""

    PENDING = "pending"
    COMPLETE = "complete"
    STOPPED = "stopped"
    TRUNCATED = "truncated"
    FILTERED = "filtered"
    FAILED = "failed"


class Source(StrEnum):
    """The origin of a stream's text."""

    PROVIDER = "provider"
    CACHE = "cache"
    JOINED = "joined"
    HISTORY = "history"


class Usage(Struct, frozen=True):
    """Tokens as the provider counted them, never an estimate."""

    input_tokens: int
    output_tokens: int


class Spent(Struct, frozen=True):
    """Tokens to charge for a generation that ended without the provider's whole count.

    `input_tokens` is what the provider told before the end; None, where it told nothing, charges the reserved
    input. `output_tokens` is the provider's latest count, or the estimate of text and reasoning if that is
    larger.
    """

    input_tokens: int | None
    output_tokens: int


class Completed(Struct, frozen=True):
    """A generation's end without an error. `provider_reason` keeps the provider's own word.

    `usage` is shown and charged. Without it, `spent` is charged.
    """

    finish_reason: FinishReason
    provider_reason: str | None = None
    usage: Usage | None = None
    spent: Spent | None = None


class Failed(Struct, frozen=True):
    """A generation's end with an error. `message` is our own text, safe to show, and quotes no one.

    `spent` is charged; None means that nothing was produced. `retry_after_ms` is in milliseconds.
    """

    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    spent: Spent | None = None


End = Completed | Failed

_STATUS = {
    FinishReason.STOP: Status.COMPLETE,
    FinishReason.LENGTH: Status.TRUNCATED,
    FinishReason.CONTENT_FILTER: Status.FILTERED,
    FinishReason.STOPPED: Status.STOPPED,
    FinishReason.TRUNCATED: Status.TRUNCATED,
}


def status_of(end: End) -> Status:
    """Return the status of a message whose generation ended so."""
    return _STATUS[end.finish_reason] if isinstance(end, Completed) else Status.FAILED


class Delta(Struct, frozen=True):
    """Text that the model appended. A model yields text that arrived together as one delta."""

    text: str


class Reasoning(Struct, frozen=True):
    """Reasoning that the model shows.

    It is a sign of life and is charged like text, but it is not part of the reply.
    """

    text: str


class Ping(Struct, frozen=True):
    """A sign of life without text."""


class Counted(Struct, frozen=True):
    """Tokens that the provider counted before the end; None for a count that it did not give."""

    input_tokens: int | None
    output_tokens: int | None


class Finish(Struct, frozen=True):
    """The provider's finish reason. It stands unless text or reasoning follows.

    A model that ends without a finish was cut off. A later `Finish` replaces it, since the usage may come
    last.
    """

    reason: FinishReason
    provider_reason: str
    usage: Usage | None = None


ModelEvent = Delta | Reasoning | Ping | Counted | Finish


class StreamState(StrEnum):
    """The state that a `status` event tells while there is no text."""

    RETRYING = "retrying"
    THINKING = "thinking"
    FALLBACK = "fallback"
    SHORTENED = "shortened"
