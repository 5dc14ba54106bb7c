"""Decides about a plan's limits; computes what a question reserves and what a reply is charged."""

import math
from datetime import UTC, datetime, time, timedelta

from msgspec import Struct

from parley.domain.conversation import Model, Reply
from parley.domain.errors import LimitExceeded
from parley.domain.events import Completed, Counted, End, Failed, Spent

# Requests are counted in a window that slides.
REQUEST_WINDOW = timedelta(minutes=1)
# A streaming session counts until its lease has run out for so long; then the purge ends it.
ORPHANED_AFTER = timedelta(minutes=1)
# The row of an ended session stays for so long, since limits count it. A session that nobody came for has had
# its time, and stays no longer.
KEPT_AFTER_END = timedelta(minutes=5)
# Seconds. A stream that holds its place may end at any moment.
_STREAM_RETRY_SECONDS = 5.0
# English has about four characters a token, other scripts fewer. Providers count better, but later.
CHARACTERS_A_TOKEN = 4


class Allowance(Struct, frozen=True):
    """A plan's limits for each of its users. None is unlimited. Days are UTC."""

    requests_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None


class Use(Struct, frozen=True):
    """What one user uses of a plan, at one moment. A count whose limit is None may be 0.

    - `requests`: the requests within `REQUEST_WINDOW`, counted from the newest one up to the limit;
      `oldest_request` is the time of the last one counted.
    - `streams`: sessions that wait for their reader, or have a writer; `reserved` is their tokens.
    - `tokens`: charged today.
    """

    requests: int = 0
    oldest_request: datetime | None = None
    streams: int = 0
    reserved: int = 0
    tokens: int = 0


def estimated(characters: int) -> int:
    """Return an estimate of the tokens in a text of this many code points."""
    return math.ceil(characters / CHARACTERS_A_TOKEN)


class Bounds(Struct, frozen=True):
    """A model's bounds: tokens of a reply, code points of a context and of the system prompt in it."""

    max_output_tokens: int
    context_characters: int
    system_characters: int


def bounds_of(model: Model) -> Bounds:
    """Return the bounds of a model."""
    return Bounds(model.max_output_tokens, model.context_characters, len(model.system_prompt))


def reserved(bounds: Bounds, chat_characters: int, prompt_characters: int) -> tuple[int, int]:
    """Return the input and output tokens to reserve for a question.

    `chat_characters` is the length of the chat before it, in code points. The model gets no more of the chat
    than its context takes; a prompt is sent whole.
    """
    sent = max(min(chat_characters + prompt_characters, bounds.context_characters), prompt_characters)
    return estimated(sent + bounds.system_characters), bounds.max_output_tokens


def most(model: Model) -> int:
    """Return the most tokens that one question to the model may reserve, except for an overlong prompt."""
    return sum(reserved(bounds_of(model), model.context_characters, 0))


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


def limit_reached(allowance: Allowance, use: Use, tokens: int, now: datetime) -> LimitExceeded | None:
    """Return the limit that a question reaches that reserves so many tokens, None if it may be asked.

    The order is that of the longest wait: tokens may come back tomorrow, requests within a minute, and
    streams at any moment.
    """
    left = {
        "requests": _left(allowance.requests_per_minute, use.requests),
        "streams": _left(allowance.concurrent_streams, use.streams),
        "tokens": _left(allowance.tokens_per_day, use.tokens + use.reserved),
    }
    if left["tokens"] is not None and left["tokens"] < tokens:
        unused = left["tokens"] + use.reserved
        # Where only the running replies' reserve is in the way, a stream's end lifts the limit.
        return _exceeded("tokens", left, _until_midnight(now) if unused < tokens else _STREAM_RETRY_SECONDS)
    if left["requests"] is not None and left["requests"] < 1:
        free_at = (use.oldest_request or now) + REQUEST_WINDOW
        return _exceeded("requests", left, (free_at - now).total_seconds())
    if left["streams"] is not None and left["streams"] < 1:
        return _exceeded("streams", left, _STREAM_RETRY_SECONDS)
    return None


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used


def _until_midnight(now: datetime) -> float:
    now = now.astimezone(UTC)
    return (datetime.combine(now.date() + timedelta(days=1), time(), UTC) - now).total_seconds()


def _exceeded(limit: str, left: dict[str, int | None], retry_seconds: float) -> LimitExceeded:
    remaining = {name: None if count is None else max(0, count) for name, count in left.items()}
    return LimitExceeded(limit, remaining, retry_seconds)
