"""From a provider's response to what happens in a generation: the loop that all providers share."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from parley.adapters.body import Body, Opened
from parley.adapters.faults import fault_of_error, heed_headers
from parley.adapters.response_format import Format, format_of
from parley.adapters.think_tags import ThinkTags
from parley.encoding import TextCleaner, convert_leniently, json_of_any_bytes
from parley.errors import ProviderFault
from parley.events import Counted, Delta, Finish, FinishReason, ModelEvent, Ping, Reasoning
from parley.sse import Decoder, ServerEvent

T = TypeVar("T", bound=msgspec.Struct)

# The longest reply that may come as one JSON text.
_JSON_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Lump:
    """What arrived together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)


class Wire(Protocol):
    """A provider's way to frame a reply; one for each reply.

    Only what carries text decides: any other field of a type that nobody expects counts as absent.
    """

    counted: Counted | None  # another object whenever the provider has told more
    wavers: bool  # a finish reason after text was taken back by more text: the next one need not stand

    def take(self, events: Sequence[ServerEvent], lump: Lump) -> bool:
        """Read events in their order, and return whether the terminal marker was among them.

        Raises `ProviderFault` if one tells of an error, anything else if one is no JSON; what came before
        that one is in the lump.
        """
        ...

    def take_whole(self, body: bytes, lump: Lump) -> None:
        """Read a reply that came as one JSON text.

        Raises `ProviderFault` if it tells of an error, anything else if it is no reply.
        """
        ...

    def finish(self) -> Finish | None:
        """Return the end, as far as the provider has told of one that stands."""
        ...


class _Reading:
    """One response's bytes on their way into its wire; the first ones say what they are."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._decoder = Decoder()
        self._format: Format | None = None
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, content_type: str, lump: Lump) -> bool:
        """Take bytes, and return whether the terminal marker was among them; raises as `Wire.take`."""
        if self._format is None:
            self._keep(data)
            begun = b"".join(self._begun)
            self._format = format_of(begun, content_type)
            if self._format is not Format.EVENTS:
                return False
            data, self._begun = begun, []
        elif self._format is Format.JSON:
            self._keep(data)
            return False
        return self._wire.take(self._decoder.feed(data), lump)

    def _keep(self, data: bytes) -> None:
        self._begun.append(data)
        self._size += len(data)
        if self._size > _JSON_BYTES:
            raise ValueError("the response is too long")

    def end(self, lump: Lump) -> None:
        """Take note that the body has ended; raises as `Wire.take_whole`, and `ValueError` for no reply at
        all.
        """
        if self._format is Format.JSON:
            self._wire.take_whole(b"".join(self._begun), lump)
        elif (self._begun and b"".join(self._begun).strip()) or (
            self._decoder.strange and self._wire.finish() is None
        ):
            raise ValueError("the response is neither an event stream nor JSON")


async def stream(
    provider: str,
    wire: Wire,
    open_response: Callable[[], Awaitable[Opened]],
    fault_of: Callable[[Exception], ProviderFault | None],
) -> AsyncGenerator[ModelEvent, None]:
    """Yield what a provider answers; see `ports.ChatModel.stream`.

    `open_response` asks; `fault_of` knows the SDK's own exceptions, and returns None for any other.
    """

    def fault_of_any(error: Exception, begun: bool) -> ProviderFault:
        return fault_of(error) or fault_of_error(provider, error, begun=begun)

    body = Body(open_response, fault_of_any)
    reading = _Reading(wire)
    cleaner = TextCleaner()
    tags = ThinkTags()
    failure: ProviderFault | None = None
    broken: ProviderFault | None = None  # by the connection, not by a word of the provider's
    counted: Counted | None = None
    finish: Finish | None = None
    said = over = False
    try:
        while failure is None and broken is None and not over:
            lump = Lump()
            try:
                data = await body.read()
            except ProviderFault as error:
                broken = error
                data = b""
            try:
                if data:
                    over = reading.feed(data, body.content_type, lump)
                elif broken is None:
                    over = True
                    reading.end(lump)
            except ProviderFault as error:
                failure = error if data else heed_headers(error, body.headers)
            except Exception as error:
                failure = fault_of_error(provider, error, begun=True)
            text = "".join(lump.text)
            if not tags.passing and text:
                text, thought = tags.feed(text)
                if thought:
                    lump.reasoning.append(thought)
            if lump.reasoning:
                yield Reasoning(cleaned(lump.reasoning))
            text = cleaner.feed(text)
            if text:
                yield Delta(text)
            said = said or bool(text or lump.reasoning)
            if wire.counted is not counted:
                counted = wire.counted
                if counted is not None:
                    yield counted
            elif not text and not lump.reasoning and data and failure is None:
                yield Ping()
            found = wire.finish() if data and not over and not wire.wavers else None
            if found is not None and found != finish:
                finish = found
                yield _believed(finish, said)
        if broken is not None and (wire.finish() is None or wire.wavers):
            failure = broken
        end = wire.finish() if failure is None else None
        rest = tags.flush(ended_well=end is not None and end.reason is FinishReason.STOP)
        if rest.reasoning:
            yield Reasoning(cleaned([rest.reasoning]))
        left = cleaner.feed(rest.text) + cleaner.flush()
        if left:
            yield Delta(left)
        if failure is not None:
            raise failure
        if end is not None:
            await body.end()
            yield _believed(end, said)
    finally:
        await body.close()


def _believed(finish: Finish, said: bool) -> Finish:
    """Return the end without a count that can't be: a server that counts no output where there was some."""
    if finish.usage is None or finish.usage.output_tokens or not said:
        return finish
    return msgspec.structs.replace(finish, usage=None)


class Chunk(Generic[T]):
    """Decodes one event, whose fields all have defaults."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> T:
        """Return what `data` says; a field of another type counts as absent. Raises `ValueError` for no
        JSON.
        """
        try:
            return self._decoder.decode(data)
        except ValueError:
            # A field of another type, half a surrogate pair, escaped (JSON by its grammar: RFC 8259, 8.2), or
            # half a character.
            value = json_of_any_bytes(data)
        if not isinstance(value, dict):
            return self._kind()
        found: T = convert_leniently(value, self._kind)
        return found


def cleaned(parts: list[str]) -> str:
    """Return the parts as one text that every wire can carry."""
    cleaner = TextCleaner()
    return cleaner.feed("".join(parts)) + cleaner.flush()
