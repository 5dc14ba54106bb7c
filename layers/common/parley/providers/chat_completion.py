"""Parses chat completions: chunks up to `[DONE]`, or one JSON text."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from parley.domain.events import Counted, Finish, FinishReason
from parley.providers.errors import fault_of_event, is_bare_error, says_something
from parley.providers.event_stream import DONE, Batch, Ending, EventDecoder, is_done
from parley.providers.finish_reasons import is_error, is_finish_reason, meaning_of
from parley.providers.sdk_client import own_word
from parley.providers.usage import completion_counts, count, usage_of
from parley.support.encoding import json_of_any_bytes
from parley.support.sse_decoder import ServerEvent

_WHOLE = "chat.completion"


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    error: Any = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    completion_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Chunk(msgspec.Struct):
    object: str | None = None
    type: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    message: Any = None
    code: Any = None
    status_code: Any = msgspec.field(default=None, name="statusCode")
    detail: Any = None

    @property
    def is_error(self) -> bool:
        """Whether this is an error that some servers send as a chunk without a field `error`."""
        if "error" in (self.object, self.type):
            return True
        if self.choices is not None or self.usage is not None or self.object is not None:
            return False
        return is_bare_error(self.detail, self.message, self.code or self.status_code)


_chunk = EventDecoder(_Chunk)


class _PlainDelta(msgspec.Struct, gc=False):
    content: str
    refusal: None = None
    reasoning_content: None = None
    reasoning: None = None
    role: Literal["assistant"] | None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    finish_reason: None = None
    error: None = None


class _PlainChunk(msgspec.Struct, gc=False):
    """A chunk that only appends text, as nearly all do; reading it by this type alone takes a third of the
    time.
    """

    choices: Annotated[list[_PlainChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: None = None
    error: None = None


_decode_plain = msgspec.json.Decoder(_PlainChunk).decode


class ChatCompletionParser:
    """Parses one reply.

    A finish reason ends the reply, unless text or reasoning follows: some servers write `stop` into every
    chunk, or into the first. Usage comes later in a chunk of its own, and not from every server.
    """

    __slots__ = (
        "_confirmed",
        "_last",
        "_reason",
        "_refused",
        "_said",
        "_title",
        "_wavers",
        "counted",
        "settled",
    )  # fmt: skip

    def __init__(self, title: str) -> None:
        self.counted: Counted | None = None
        self.settled = False
        self._title = title
        self._confirmed = False
        self._wavers = False
        self._said = False
        self._refused = False
        self._reason: str | None = None
        self._last: str | None = None

    def take(self, events: Sequence[ServerEvent], batch: Batch) -> bool:
        """Read chunks up to the marker."""
        for event in events:
            data = event.data
            if self._reason is None and event.event == "message":
                try:
                    text = _decode_plain(data).choices[0].delta.content
                except ValueError:
                    pass
                else:
                    if text:
                        batch.text.append(text)
                        self._said = True
                    continue
            if data == DONE:
                return self._done()
            chunk = _chunk.decode(data)
            if chunk is None:
                if is_done(data):
                    return self._done()
                if event.event == "error":
                    raise fault_of_event(self._title, data.decode("utf-8", "replace"))
                continue
            self._read(chunk, batch)
            if not chunk.choices or chunk.error is not None or event.event == "error":
                self._check(chunk, data, named=event.event == "error")
            if self._reason is None:
                self.settled = False
            # Usage in a chunk of its own follows the finish reason, so only the marker is missing.
            elif chunk.usage is not None and chunk.choices == [] and self.counted is not None and self._said:
                self.settled = True
        return False

    def take_whole(self, body: bytes, batch: Batch) -> None:
        """Read a whole completion, from a server that does not stream."""
        chunk = _chunk.decode(body) or _Chunk()
        self._read(chunk, batch, whole=True)
        self._check(chunk, body)
        if not chunk.choices:
            raise ValueError("the response is no completion")
        self._confirmed = True

    def _done(self) -> bool:
        # The marker confirms the reply: its last finish reason counts, even if text followed it.
        self._reason = self._reason or self._last
        self._confirmed = True
        return True

    def _check(self, chunk: _Chunk, data: bytes, *, named: bool = False) -> None:
        """Raise the fault that a chunk reports, if any. `named` says that its event is called `error`."""
        if named or says_something(chunk.error) or chunk.is_error:
            raise fault_of_event(self._title, json_of_any_bytes(data))

    def _read(self, chunk: _Chunk, batch: Batch, *, whole: bool = False) -> None:
        for choice in chunk.choices or ():
            said = len(batch.text) + len(batch.reasoning)
            delta = choice.delta
            # A whole completion may come as the only chunk. After deltas it would repeat them.
            if delta is None and (whole or chunk.object == _WHOLE) and not self._said:
                delta = choice.message
            if delta is not None and delta.role != "tool":
                self._say(delta, batch)
            word = choice.finish_reason
            if word is not None and is_finish_reason(word):
                if is_error(word) or says_something(choice.error):
                    error = choice.error or chunk.error
                    raise fault_of_event(self._title, {"error": error, "type": word})
                self._reason = self._last = word
                # A finish reason in a chunk with text may not be the last: some servers write it into every
                # chunk.
                self._confirmed = len(batch.text) + len(batch.reasoning) == said and self._said
            elif says_something(choice.error):
                raise fault_of_event(self._title, {"error": choice.error})
        if chunk.usage is not None:
            self._count(chunk.usage)

    def _say(self, delta: _Delta, batch: Batch) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            batch.reasoning.append(thought)
        said = bool(thought or delta.refusal)
        text = delta.content
        if text:
            if isinstance(text, str):
                said = True
                batch.text.append(text)
            else:
                said = _read_parts(text, batch) or said
        if delta.refusal:
            self._refused = True
            batch.text.append(delta.refusal)
        if said:
            if self._reason is not None:
                self._reason = None
                self._wavers = self._wavers or self._said
            self._said = True

    def _count(self, usage: _Usage) -> None:
        """Merge the counts of a chunk. The counts are cumulative, and a zero counts as unknown."""
        before = self.counted or Counted(None, None)
        details = usage.completion_tokens_details
        now = completion_counts(
            count(usage.prompt_tokens),
            count(usage.completion_tokens),
            count(details.reasoning_tokens) if details is not None else None,
            count(usage.total_tokens),
            (count(usage.cache_read_input_tokens) or 0) + (count(usage.cache_creation_input_tokens) or 0),
        )
        output = now.output_tokens or before.output_tokens
        told = Counted(
            now.input_tokens or before.input_tokens, now.output_tokens if output is None else output
        )
        if told != before:
            self.counted = told

    def finish(self, ending: Ending = Ending.WAITING) -> Finish | None:
        """Return the finish, once a finish reason has come that no text followed.

        An unconfirmed reason does not count if the connection breaks. It does not count either if the body
        ends and the server has sent text after an earlier reason. `[DONE]` confirms a reason. A chunk with a
        reason and no text confirms it too.
        """
        if self._reason is None:
            return None
        if not self._confirmed and (ending is Ending.BROKEN or (ending is Ending.CLOSED and self._wavers)):
            return None
        usage = usage_of(self.counted)
        if self._refused:
            return Finish(FinishReason.CONTENT_FILTER, "refusal", usage)
        return Finish(meaning_of(self._reason), own_word(self._reason), usage)


def _read_parts(parts: list[Any], batch: Batch) -> bool:
    """Add content that comes as a list, as Mistral's reasoning models send it.

    Returns whether it had text or reasoning.
    """
    before = len(batch.text) + len(batch.reasoning)
    for part in parts:
        match part:
            case {"type": "text", "text": str(text)}:
                batch.text.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                batch.reasoning.append(thought)
            case {"type": "thinking", "thinking": [*thoughts]}:
                batch.reasoning += [
                    thought["text"]
                    for thought in thoughts
                    if isinstance(thought, dict) and isinstance(thought.get("text"), str)
                ]
    return len(batch.text) + len(batch.reasoning) > before
