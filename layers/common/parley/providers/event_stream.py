"""From a provider's response to what happens in a generation: the loop that all providers share."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

import msgspec

from parley.domain.errors import ProviderFault
from parley.domain.events import Counted, Delta, Finish, FinishReason, ModelEvent, Ping, Reasoning
from parley.providers.errors import fault_of_error, heed_headers
from parley.providers.response_body import Opened, ResponseBody
from parley.providers.response_format import Format, format_of
from parley.providers.think_tags import ThinkTags
from parley.support.encoding import TextCleaner, convert_leniently, is_blank, json_of_any_bytes
from parley.support.sse_decoder import Decoder, ServerEvent

T = TypeVar("T", bound=msgspec.Struct)

# The longest reply that may come as one JSON text.
_JSON_BYTES = 4 * 1024 * 1024
# How long the marker is waited for, in seconds, after all that comes before it.
_MARKER_SECONDS = 2.0
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"[DONE]"
# `ping`, `[PING]`, `keep-alive`: a sign of life of some gateways, and no JSON.
_BARE_WORDS = re.compile(rb"[\[\]A-Za-z _-]{0,40}", re.ASCII)


@dataclass(slots=True)
class Batch:
    """What arrived together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)


class Ending(Enum):
    """How a response's body ended, as far as it has."""

    WAITING = "waiting"
    CLOSED = "closed"
    BROKEN = "broken"


class ReplyParser(Protocol):
    """A provider's way to frame a reply; one for each reply.

    Only what carries text decides: any other field of a type that nobody expects counts as absent.
    """

    counted: Counted | None  # another object whenever the provider has told more
    settled: bool  # it ended but for its marker: what is still to come is not waited for

    def take(self, events: Sequence[ServerEvent], batch: Batch) -> bool:
        """Read events in their order, and return whether the terminal marker was among them.

        Raises `ProviderFault` if one tells of an error, anything else if one is no JSON; what came before
        that one is in the lump.
        """
        ...

    def take_whole(self, body: bytes, batch: Batch) -> None:
        """Read a reply that came as one JSON text.

        Raises `ProviderFault` if it tells of an error, anything else if it is no reply.
        """
        ...

    def finish(self, ending: Ending = Ending.WAITING) -> Finish | None:
        """Return the end, as far as the provider has told of one that stands; `ending` is the body's."""
        ...


class _Reading:
    """One response's bytes on their way into its wire; the first ones say what they are."""

    def __init__(self, parser: ReplyParser) -> None:
        self._parser = parser
        self._decoder = Decoder()
        self._format: Format | None = None
        self._begun = b""
        self._json: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, content_type: str, batch: Batch) -> bool:
        """Take bytes, and return whether the terminal marker was among them; raises as `ReplyParser.take`."""
        if self._format is None:
            # White space before the first byte means nothing, and is not kept.
            data = (self._begun + data).removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n")
            self._format = format_of(data, content_type)
            if self._format is None:
                self._begun = data
                return False
        if self._format is Format.EVENTS:
            return self._parser.take(self._decoder.feed(data), batch)
        self._json.append(data)
        self._size += len(data)
        if self._size > _JSON_BYTES:
            raise ValueError("the response is too long")
        return False

    def end(self, batch: Batch) -> None:
        """Take note that the body has ended; raises as `ReplyParser.take_whole`, and `ValueError` for no
        reply at all.
        """
        if self._format is Format.JSON:
            self._parser.take_whole(b"".join(self._json), batch)
        elif self._begun or (self._decoder.strange and self._parser.finish(Ending.CLOSED) is None):
            raise ValueError("the response is neither an event stream nor JSON")


async def stream(
    provider: str,
    parser: ReplyParser,
    open_response: Callable[[], Awaitable[Opened]],
    fault_of: Callable[[Exception], ProviderFault | None],
) -> AsyncGenerator[ModelEvent, None]:
    """Yield what a provider answers; see `ports.ChatModel.stream`.

    `open_response` asks; `fault_of` knows the SDK's own exceptions, and returns None for any other.
    """

    def fault_of_any(error: Exception, begun: bool) -> ProviderFault:
        return fault_of(error) or fault_of_error(provider, error, begun=begun)

    body = ResponseBody(open_response, fault_of_any)
    reading = _Reading(parser)
    cleaner = TextCleaner()
    tags = ThinkTags()
    failure: ProviderFault | None = None
    counted: Counted | None = None
    finish: Finish | None = None
    ending = Ending.WAITING
    said = over = False
    try:
        while failure is None and not over:
            batch = Batch()
            try:
                data = await (body.read_within(_MARKER_SECONDS) if parser.settled else body.read())
            except ProviderFault as error:
                failure, data = error, b""
                ending = Ending.BROKEN
            if not data and failure is None:
                ending, over = Ending.CLOSED, True
            try:
                if data:
                    over = reading.feed(data, body.content_type, batch)
                elif over:
                    reading.end(batch)
            except ProviderFault as error:
                failure = error if data else heed_headers(error, body.headers)
            except Exception as error:
                failure = fault_of_error(provider, error, begun=True)
            text = "".join(batch.text)
            if text and not tags.passing:
                text, thought = tags.feed(text)
                if thought:
                    batch.reasoning.append(thought)
            if batch.reasoning:
                yield Reasoning(cleaned(batch.reasoning))
            text = cleaner.feed(text)
            if text:
                yield Delta(text)
            if text or batch.reasoning:
                said, finish = True, None
            if parser.counted is not counted:
                counted = parser.counted
                if counted is not None:
                    yield counted
            elif not text and not batch.reasoning and failure is None:
                yield Ping()
            found = parser.finish() if failure is None and not over else None
            if found is not None and found != finish:
                if not tags.passing and (left := tags.let_go()):
                    said = True
                    yield Delta(cleaner.feed(left))
                finish = found
                yield _believed(finish, said)
        end = parser.finish(ending) if failure is None or ending is Ending.BROKEN else None
        if end is not None and ending is Ending.BROKEN and not said and end.reason is FinishReason.STOP:
            end = None  # a finish reason before any text, and then nothing
        if end is not None:
            failure = None
        rest = tags.flush(ended_well=end is not None and end.reason is FinishReason.STOP)
        if rest.reasoning:
            yield Reasoning(cleaned([rest.reasoning]))
        left = cleaner.feed(rest.text) + cleaner.flush()
        # What was held back, where nothing came after it and no end, is no reply: it may be asked for again.
        if left and (end is not None or said or not is_blank(left)) and (failure is None or said):
            yield Delta(left)
        if failure is not None:
            raise failure
        if end is not None:
            await body.end()
            yield _believed(end, said or bool(left))
    finally:
        await body.close()


def _believed(finish: Finish, said: bool) -> Finish:
    """Return the end without a count that can't be: a server that counts no output where there was some."""
    if finish.usage is None or finish.usage.output_tokens or not said:
        return finish
    return msgspec.structs.replace(finish, usage=None)


class EventDecoder(Generic[T]):
    """Decodes one event, whose fields all have defaults."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> T | None:
        """Return what `data` says, or None for a sign of life; a field of another type counts as absent.

        Raises `ValueError` for what is no JSON.
        """
        try:
            return self._decoder.decode(data)
        except ValueError:
            # A field of another type, half a surrogate pair, escaped (JSON by its grammar: RFC 8259, 8.2), or
            # half a character.
            if _BARE_WORDS.fullmatch(data.strip()):
                return None
            value = json_of_any_bytes(data)
        if not isinstance(value, dict):
            return self._kind()
        found: T = convert_leniently(value, self._kind)
        return found


def is_done(data: bytes) -> bool:
    """Tell whether an event is the marker after the last chunk, however it is written."""
    return data.strip().upper() == DONE


def cleaned(parts: list[str]) -> str:
    """Return the parts as one text that every wire can carry."""
    cleaner = TextCleaner()
    return cleaner.feed("".join(parts)) + cleaner.flush()
