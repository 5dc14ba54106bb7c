"""Chat completions as they are streamed: chunks up to `[DONE]`, or one JSON text."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from parley.adapters.faults import fault_of_event, says_something
from parley.adapters.finish_reasons import is_error, is_finish_reason, meaning_of
from parley.adapters.sdk import own_word
from parley.adapters.streaming import Chunk, Lump
from parley.adapters.usage import count, output_tokens, usage_of
from parley.encoding import json_of_any_bytes
from parley.events import Counted, Finish, FinishReason
from parley.sse import ServerEvent

_DONE = b"[DONE]"
_WHOLE = "chat.completion"
# `ping`, `[PING]`, `keep-alive`: a sign of life of some gateways, and no JSON.
_BARE_WORD = re.compile(rb"\s*[\[\]A-Za-z_-]{0,32}\s*", re.ASCII)


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


class _Chunk(msgspec.Struct):
    object: str | None = None
    type: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    message: Any = None
    code: Any = None
    detail: Any = None

    @property
    def is_bare_error(self) -> bool:
        """Whether it is an error that some servers put in a chunk's place, in no field `error`."""
        if "error" in (self.object, self.type):
            return True
        if self.choices is not None or self.usage is not None or self.object is not None:
            return False
        return bool(self.detail or (self.message and self.code))


_chunk = Chunk(_Chunk)


class ChatCompletion:
    """Reads one reply.

    A finish reason makes the end, unless text or reasoning follows: some servers write `stop` into every
    chunk, or into the first. The usage comes after it, alone, and not from every server.
    """

    __slots__ = ("_last", "_reason", "_refused", "_said", "_title", "counted", "wavers")

    def __init__(self, title: str) -> None:
        self.counted: Counted | None = None
        self.wavers = False
        self._title = title
        self._said = False
        self._refused = False
        self._reason: str | None = None
        self._last: str | None = None

    def take(self, events: Sequence[ServerEvent], lump: Lump) -> bool:
        """Read chunks up to the marker, or to the usage after a finish reason."""
        over = False
        for event in events:
            data = event.data
            if data == _DONE:
                return self._done()
            try:
                chunk = _chunk.decode(data)
            except ValueError:
                if data.strip().upper() == _DONE:
                    return self._done()
                if _BARE_WORD.fullmatch(data):
                    continue
                raise
            self._read(chunk, lump)
            if chunk.choices is None or chunk.error is not None or event.event == "error":
                self._check(chunk, data, named=event.event == "error")
            alone = chunk.usage is not None and not chunk.choices
            over = self._reason is not None and (over or alone)
        return over

    def take_whole(self, body: bytes, lump: Lump) -> None:
        """Read a whole completion, from a server that does not stream."""
        chunk = _chunk.decode(body)
        if chunk.choices is None:
            self._check(chunk, body, named=body.lstrip().startswith(b"["))
            raise ValueError("the response is no completion")
        if chunk.error is not None:
            self._check(chunk, body)
        chunk.object = _WHOLE
        self._read(chunk, lump)

    def _done(self) -> bool:
        # The marker vouches for the reply: the last reason counts, whatever came after it.
        self._reason = self._reason or self._last
        return True

    def _check(self, chunk: _Chunk, data: bytes, *, named: bool = False) -> None:
        """Raise the fault that a chunk tells of, if it does; `named` says that its event is called one."""
        if named or says_something(chunk.error) or chunk.is_bare_error:
            raise fault_of_event(self._title, json_of_any_bytes(data))

    def _read(self, chunk: _Chunk, lump: Lump) -> None:
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None and chunk.object == _WHOLE:
                delta = choice.message
            if delta is not None and delta.role != "tool":
                self._say(delta, lump)
            word = choice.finish_reason
            if word is not None and is_finish_reason(word):
                if is_error(word) or says_something(choice.error):
                    error = choice.error or chunk.error
                    raise fault_of_event(self._title, {"error": error, "type": word})
                self._reason = self._last = word
            elif choice.error is not None and says_something(choice.error):
                raise fault_of_event(self._title, {"error": choice.error})
        if chunk.usage is not None:
            self._count(chunk.usage)

    def _say(self, delta: _Delta, lump: Lump) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            lump.reasoning.append(thought)
        said = bool(thought or delta.refusal)
        text = delta.content
        if text:
            if isinstance(text, str):
                said = True
                lump.text.append(text)
            else:
                said = _read_parts(text, lump) or said
        if delta.refusal:
            self._refused = True
            lump.text.append(delta.refusal)
        if said:
            if self._reason is not None:
                self._reason = None
                self.wavers = self.wavers or self._said
            self._said = True

    def _count(self, usage: _Usage) -> None:
        """Take over what is told: the counts are cumulative, and a zero tells nothing."""
        before = self.counted or Counted(None, None)
        prompt, completion = count(usage.prompt_tokens), count(usage.completion_tokens)
        details = usage.completion_tokens_details
        reasoning = count(details.reasoning_tokens) if details is not None else None
        output = count(output_tokens(prompt, completion, reasoning, count(usage.total_tokens)))
        told = Counted(prompt or before.input_tokens, output or before.output_tokens or output)
        if told != before:
            self.counted = told

    def finish(self) -> Finish | None:
        """Return the end, once a finish reason came that nothing followed."""
        if self._reason is None:
            return None
        usage = usage_of(self.counted)
        if self._refused:
            return Finish(FinishReason.CONTENT_FILTER, "refusal", usage)
        return Finish(meaning_of(self._reason), own_word(self._reason), usage)


def _read_parts(parts: list[Any], lump: Lump) -> bool:
    """Read content that comes as a list, as Mistral's reasoning models send it; return whether it said
    anything.
    """
    before = len(lump.text) + len(lump.reasoning)
    for part in parts:
        match part:
            case {"type": "text", "text": str(text)}:
                lump.text.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                lump.reasoning.append(thought)
            case {"type": "thinking", "thinking": [*thoughts]}:
                lump.reasoning += [
                    thought["text"]
                    for thought in thoughts
                    if isinstance(thought, dict) and isinstance(thought.get("text"), str)
                ]
    return len(lump.text) + len(lump.reasoning) > before
