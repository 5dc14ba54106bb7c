"""What a plan allows its users, what a question is expected to use, and what a reply is charged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parley.conversation import Model, Reply
from parley.errors import LimitExceeded
from parley.events import Failed

# A stream that is in the way may end at any moment.
_STREAM_RETRY_SECONDS = 5.0
# English has about four characters a token, other scripts fewer; providers count better, but later.
_CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Allowance:
    """A plan's limits for each of its users; None is unlimited. Days are UTC's."""

    requests_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None


def estimated(characters: int) -> int:
    """Return how many tokens so much text may be."""
    return math.ceil(characters / _CHARACTERS_A_TOKEN)


def reserved(model: Model, chat_characters: int, prompt_characters: int) -> tuple[int, int]:
    """Return the input and output tokens to set aside for a question.

    `chat_characters` is what its chat held before, of which the model gets no more than its context
    takes; a prompt is sent whole.
    """
    sent = max(min(chat_characters + prompt_characters, model.context_characters), prompt_characters)
    return estimated(sent + len(model.system_prompt)), model.max_output_tokens


def most(model: Model) -> int:
    """Return what one question to the model may set aside at most, but for an overlong prompt."""
    return sum(reserved(model, model.context_characters, 0))


def charged(reply: Reply) -> tuple[int | None, int]:
    """Return the input and output tokens to charge for a reply that a model was asked for.

    As the provider counted them. A reply that was stopped or cut off comes without a count: its input
    is None, for what was set aside, and its text is estimated. One that failed before any text is free.
    """
    end = reply.end
    if isinstance(end, Failed):
        return (None, estimated(len(reply.text))) if reply.text else (0, 0)
    if end.usage is not None:
        return end.usage.input_tokens, end.usage.output_tokens
    return None, estimated(len(reply.text))


def limit_exceeded(limit: str, left: Sequence[int | None], retry_seconds: float | None) -> LimitExceeded:
    """Return the error of a limit, for what is left of requests, streams and tokens.

    `retry_seconds` None is for what the end of a running stream will lift.
    """
    names = ("requests", "streams", "tokens")
    counts = (None if count is None else max(0, count) for count in left)
    remaining = dict(zip(names, counts, strict=True))
    return LimitExceeded(limit, remaining, _STREAM_RETRY_SECONDS if retry_seconds is None else retry_seconds)
