"""Parses Anthropic's messages: events up to `message_stop`, or one JSON text."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from parley.domain.events import Counted, Finish
from parley.providers.errors import fault_of_event, is_bare_error, says_something
from parley.providers.event_stream import Batch, Ending, EventDecoder, is_done
from parley.providers.finish_reasons import is_error, meaning_of
from parley.providers.sdk_client import own_word
from parley.providers.usage import count, usage_of
from parley.support.encoding import json_of_any_bytes
from parley.support.sse_decoder import ServerEvent


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Message(msgspec.Struct):
    content: list[_Block] | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    object: str | None = None
    message: _Message | str | None = None
    content_block: _Block | None = None
    content: list[_Block] | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None
    code: Any = None
    detail: Any = None

    @property
    def is_error(self) -> bool:
        """Whether the event is an error in OpenAI's words, which gateways send on this API."""
        if says_something(self.error) or self.object == "error":
            return True
        text = self.message if isinstance(self.message, str) else None
        return self.type is None and is_bare_error(self.detail, text, self.code)


_event = EventDecoder(_Event)


class _PlainDelta(msgspec.Struct, gc=False):
    type: Literal["text_delta"]
    text: str


class _PlainEvent(msgspec.Struct, gc=False):
    """An event that only appends text, as nearly all do; reading it by this type alone takes a third of the
    time.
    """

    type: Literal["content_block_delta"]
    delta: _PlainDelta
    error: None = None


_decode_plain = msgspec.json.Decoder(_PlainEvent).decode


class MessagesParser:
    """Parses one reply. A reply without `message_stop` was cut off."""

    __slots__ = ("_over", "_reason", "_title", "_usage", "counted", "settled")

    def __init__(self, title: str) -> None:
        self.counted: Counted | None = None
        self.settled = False
        self._title = title
        self._over = False
        self._reason: str | None = None
        self._usage = _Usage()

    def take(self, events: Sequence[ServerEvent], batch: Batch) -> bool:
        """Read events up to `message_stop`. Events of an unknown type are skipped."""
        for event in events:
            data = event.data
            try:
                text = _decode_plain(data).delta.text
            except ValueError:
                pass
            else:
                if text:
                    batch.text.append(text)
                continue
            body = _event.decode(data)
            if body is None and event.event == "error":
                raise fault_of_event(self._title, data.decode("utf-8", "replace"))
            if body is None:
                self._over = self._over or (is_done(data) and self._reason is not None)
            else:
                self._read(body, event, batch)
            if self._over:
                break
        return self._over

    def _read(self, body: _Event, event: ServerEvent, batch: Batch) -> None:
        kind = body.type or event.event
        match kind:
            case "content_block_delta" if body.delta is not None:
                delta = body.delta
                _say(batch, delta.type, "text_delta", delta.text, "thinking_delta", delta.thinking)
            case "content_block_start" if body.content_block is not None:
                block = body.content_block
                _say(batch, block.type, "text", block.text, "thinking", block.thinking)
            case "message_start" if isinstance(body.message, _Message):
                for block in body.message.content or ():
                    _say(batch, block.type, "text", block.text, "thinking", block.thinking)
                self._count(body.message.usage, begins=True)
            case "message" if body.content is not None:
                self._read_whole(body, batch)
            case "message_delta":
                self._count(body.usage)
                if body.delta is not None and body.delta.stop_reason:
                    self._end_by(body.delta.stop_reason)
            case "message_stop":
                self._over = True
        if kind == "error" or body.is_error:
            raise fault_of_event(self._title, json_of_any_bytes(event.data))

    def take_whole(self, body: bytes, batch: Batch) -> None:
        """Read a whole message, from a server that does not stream."""
        message = _event.decode(body) or _Event()
        if message.type == "error" or message.is_error:
            raise fault_of_event(self._title, json_of_any_bytes(body))
        if message.content is None:
            raise ValueError("the response is no message")
        self._read_whole(message, batch)

    def _read_whole(self, message: _Event, batch: Batch) -> None:
        for block in message.content or ():
            _say(batch, block.type, "text", block.text, "thinking", block.thinking)
        self._count(message.usage)
        if message.stop_reason:
            self._end_by(message.stop_reason)
        self._over = True

    def _end_by(self, word: str) -> None:
        if is_error(word):
            raise fault_of_event(self._title, {"type": word})
        self._reason = word

    def finish(self, ending: Ending = Ending.WAITING) -> Finish | None:
        """Return the finish, once `message_stop` has come after a stop reason. `ending` does not matter."""
        if self._reason is None or not self._over:
            return None
        return Finish(meaning_of(self._reason), own_word(self._reason), usage_of(self.counted))

    def _count(self, usage: _Usage | None, *, begins: bool = False) -> None:
        """Merge the counts of an event. The counts are cumulative, and some are sent only once."""
        if usage is None:
            return
        told = {name: count(value) for name, value in msgspec.structs.asdict(usage).items()}
        if begins:
            told["output_tokens"] = None  # the reply has just begun: a later event has its count
        # A prompt always has tokens, so an input count of zero must not replace one that is known.
        known = {
            name: value for name, value in told.items() if value or (value == 0 and name == "output_tokens")
        }
        self._usage = usage = msgspec.structs.replace(self._usage, **known)
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        asked = count((usage.input_tokens or 0) + cached) or None
        self.counted = Counted(asked, usage.output_tokens)


def _say(
    batch: Batch, kind: str | None, text_kind: str, text: str | None, thinking_kind: str, thinking: str | None
) -> None:
    """Add the text and the thinking of a block or delta of these kinds. Without a kind, both count."""
    if text and kind in (text_kind, None):
        batch.text.append(text)
    if thinking and kind in (thinking_kind, None):
        batch.reasoning.append(thinking)
