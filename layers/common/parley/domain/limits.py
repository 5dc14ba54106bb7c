"""What a plan allows its users, what a question is expected to use, and what a reply is charged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parley.domain.conversation import Model, Reply
from parley.domain.errors import LimitExceeded
from parley.domain.events import Completed, Counted, End, Failed, Spent

# A stream that is in the way may end at any moment.
_STREAM_RETRY_SECONDS = 5.0
# English has about four characters a token, other scripts fewer; providers count better, but later.
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Allowance:
    """A plan's limits for each of its users; None is unlimited. Days are UTC's."""

    requests_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None


def estimated(characters: int) -> int:
    """Return how many tokens so much text may be."""
    return math.ceil(characters / CHARACTERS_A_TOKEN)


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

    As the provider counted them at the end, else as `spent` has it. An end without either comes from where
    nothing but the text is known: its input is None, for what was set aside, and its text is estimated. A
    failure that produced nothing is free.
    """
    end = reply.end
    if isinstance(end, Completed) and end.usage is not None:
        return end.usage.input_tokens, end.usage.output_tokens
    if end.spent is not None:
        return end.spent.input_tokens, end.spent.output_tokens
    if isinstance(end, Failed) and not reply.text:
        return 0, 0
    return None, estimated(len(reply.text))


def spent(end: End, counted: Counted | None, characters: int) -> Spent | None:
    """Return what to charge for a generation that ended without the provider's whole count.

    `counted` is what the provider told of it before; `characters` are those of its text and its reasoning.
    None for a failure that produced nothing: a provider that breaks off then did not work for this user.
    """
    told_input = None if counted is None else counted.input_tokens
    told_output = 0 if counted is None else counted.output_tokens or 0
    output = max(told_output, estimated(characters))
    if isinstance(end, Failed) and not output:
        return None
    return Spent(told_input, output)


def limit_exceeded(limit: str, left: Sequence[int | None], retry_seconds: float | None) -> LimitExceeded:
    """Return the error of a limit, for what is left of requests, streams and tokens.

    `retry_seconds` None is for what the end of a running stream will lift.
    """
    names = ("requests", "streams", "tokens")
    counts = (None if count is None else max(0, count) for count in left)
    remaining = dict(zip(names, counts, strict=True))
    return LimitExceeded(limit, remaining, _STREAM_RETRY_SECONDS if retry_seconds is None else retry_seconds)
