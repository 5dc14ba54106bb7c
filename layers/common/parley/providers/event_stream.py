"""Turns a provider's response into model events: the loop that all providers share."""

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

# Bytes of a reply that comes as one JSON text.
_JSON_BYTES = 4 * 1024 * 1024
# Seconds to wait for the terminal marker once everything before it has come.
_MARKER_SECONDS = 2.0
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"[DONE]"
# Some gateways send `ping`, `[PING]` or `keep-alive` as data. These keep-alives are not JSON.
_BARE_WORDS = re.compile(rb"[\[\]A-Za-z _-]{0,40}", re.ASCII)


@dataclass(slots=True)
class Batch:
    """The text and the reasoning of one read."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)


class Ending(Enum):
    """How a response's body ended. `WAITING` is a body that has not ended."""

    WAITING = "waiting"
    CLOSED = "closed"
    BROKEN = "broken"


class ReplyParser(Protocol):
    """A parser for a provider's framing. Each reply has its own.

    Only fields that carry text are strict. Any other field of an unexpected type counts as absent.
    """

    counted: Counted | None  # replaced by a new object whenever a count changes
    settled: bool  # only the marker is missing: the wait for it is short

    def take(self, events: Sequence[ServerEvent], batch: Batch) -> bool:
        """Read events in order into `batch`. Return whether the terminal marker was among them.

        Raises `ProviderFault` for an event that reports an error, and any exception for an event that is not
        JSON. `batch` then has the text of the events before it.
        """
        ...

    def take_whole(self, body: bytes, batch: Batch) -> None:
        """Read a reply that came as one JSON text into `batch`.

        Raises `ProviderFault` if the JSON reports an error, and any exception if it is not a reply.
        """
        ...

    def finish(self, ending: Ending = Ending.WAITING) -> Finish | None:
        """Return how the reply ended, or None if it is cut off so far. `ending` is how the body ended."""
        ...


class _Reading:
    """Passes one response's bytes to its parser. The first bytes tell the format."""

    def __init__(self, parser: ReplyParser) -> None:
        self._parser = parser
        self._decoder = Decoder()
        self._format: Format | None = None
        self._begun = b""
        self._json: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, content_type: str, batch: Batch) -> bool:
        """Read bytes. Return whether the terminal marker was among them. Raises as `ReplyParser.take`."""
        if self._format is None:
            # Leading white space has no meaning, and without it the first byte tells JSON from events.
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
        """Read the body's end.

        Raises as `ReplyParser.take_whole` does, and `ValueError` for a body that was neither events nor JSON.
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
    """Yield a model's reply as events; see `ports.ChatModel.stream`.

    `open_response` sends the request. `fault_of` maps the SDK's own exceptions, and returns None for others.
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
                # A finish stands only if no text follows it (`ports.ChatModel.stream`), so held text goes
                # before it.
                if not tags.passing and (left := tags.let_go()):
                    said = True
                    yield Delta(cleaner.feed(left))
                finish = found
                yield _believed(finish, said)
        # A broken connection may still leave a reply that ended. An error event or invalid data never does.
        end = parser.finish(ending) if failure is None or ending is Ending.BROKEN else None
        if end is not None and ending is Ending.BROKEN and not said and end.reason is FinishReason.STOP:
            end = None  # `stop` before any text is no end: some servers send it in the first chunk
        if end is not None:
            failure = None
        rest = tags.flush(ended_well=end is not None and end.reason is FinishReason.STOP)
        if rest.reasoning:
            yield Reasoning(cleaned([rest.reasoning]))
        left = cleaner.feed(rest.text) + cleaner.flush()
        # Without an end and without other text, held text is no reply if it is blank or an error followed it.
        # It is dropped, so that the request may be sent again.
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
    """Return the finish, without usage if it counts zero output tokens for a reply that has text."""
    if finish.usage is None or finish.usage.output_tokens or not said:
        return finish
    return msgspec.structs.replace(finish, usage=None)


class EventDecoder(Generic[T]):
    """Decodes one event's JSON into a struct whose fields all have defaults."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> T | None:
        """Return the event, or None for a keep-alive. A field of another type counts as absent.

        Raises `ValueError` if `data` is not JSON.
        """
        try:
            return self._decoder.decode(data)
        except ValueError:
            # A field of another type, an escaped lone surrogate (valid by JSON's grammar: RFC 8259, 8.2), or
            # a byte sequence that is not UTF-8.
            if _BARE_WORDS.fullmatch(data.strip()):
                return None
            value = json_of_any_bytes(data)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # Gemini's errors on OpenAI's wire
        if not isinstance(value, dict):
            return self._kind()
        found: T = convert_leniently(value, self._kind)
        return found


def is_done(data: bytes) -> bool:
    """Return whether an event is the `[DONE]` marker, in any case."""
    return data.strip().upper() == DONE


def cleaned(parts: list[str]) -> str:
    """Return the parts joined, as text that every store can take (see `TextCleaner`)."""
    cleaner = TextCleaner()
    return cleaner.feed("".join(parts)) + cleaner.flush()
