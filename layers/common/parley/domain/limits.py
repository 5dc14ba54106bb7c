"""Computes what a question reserves and what a reply is charged, and makes the error of a reached limit.

The decision about limits is `begin_session`'s (postgres/sql/0003_answers.sql).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parley.domain.conversation import Model, Reply
from parley.domain.errors import LimitExceeded
from parley.domain.events import Completed, Counted, End, Failed, Spent

# Seconds. A stream that holds its place may end at any moment.
_STREAM_RETRY_SECONDS = 5.0
# English has about four characters a token, other scripts fewer. Providers count better, but later.
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Allowance:
    """A plan's limits for each of its users. None is unlimited. Days are UTC.

    The tests' store is given an `Allowance`. `begin_session` reads the same limits from the table `plans`.
    """

    requests_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None


def estimated(characters: int) -> int:
    """Return an estimate of the tokens in a text of this many code points."""
    return math.ceil(characters / CHARACTERS_A_TOKEN)


def reserved(model: Model, chat_characters: int, prompt_characters: int) -> tuple[int, int]:
    """Return the input and output tokens to reserve for a question.

    `chat_characters` is the length of the chat before it, in code points. The model gets no more of the chat
    than its context takes; a prompt is sent whole. `begin_session` repeats this rule in SQL, so a change
    of it needs a migration.
    """
    sent = max(min(chat_characters + prompt_characters, model.context_characters), prompt_characters)
    return estimated(sent + len(model.system_prompt)), model.max_output_tokens


def most(model: Model) -> int:
    """Return the most tokens that one question to the model may reserve, except for an overlong prompt."""
    return sum(reserved(model, model.context_characters, 0))


def charged(reply: Reply) -> tuple[int | None, int]:
    """Return the input and output tokens to charge for a reply that a model was asked for.

    The provider's count at the end comes first, then `spent`. An end without either comes from a process that
    knows the text alone: its input is None, which charges the reserved input, and its text is estimated. A
    failure without text is free.
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
    """Return the tokens to charge for a generation that ended without the provider's whole count.

    `counted` is what the provider told before the end; `characters` is the length of text and reasoning in
    code points. The result is None for a failure that produced nothing: a provider that breaks off then did
    no work for this user.
    """
    told_input = None if counted is None else counted.input_tokens
    told_output = 0 if counted is None else counted.output_tokens or 0
    output = max(told_output, estimated(characters))
    if isinstance(end, Failed) and not output:
        return None
    return Spent(told_input, output)


def limit_exceeded(limit: str, left: Sequence[int | None], retry_seconds: float | None) -> LimitExceeded:
    """Return the error of a limit; `left` is what remains of requests, streams and tokens.

    `retry_seconds` None means that the end of a running stream lifts the limit.
    """
    names = ("requests", "streams", "tokens")
    counts = (None if count is None else max(0, count) for count in left)
    remaining = dict(zip(names, counts, strict=True))
    return LimitExceeded(limit, remaining, _STREAM_RETRY_SECONDS if retry_seconds is None else retry_seconds)
