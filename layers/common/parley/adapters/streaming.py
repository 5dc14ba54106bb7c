"""From a provider's response to what happens in a generation: the loop that all providers share."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from parley.adapters.body import Body, Opened
from parley.adapters.faults import fault, fault_of_error
from parley.encoding import TextCleaner
from parley.errors import ProviderFault
from parley.events import Delta, Finish, ModelEvent, Ping, Reasoning, Usage
from parley.sse import CONTENT_TYPE, Decoder, ServerEvent

T = TypeVar("T")

# Some servers give the finish reason and then keep the connection open, or send the usage late.
_USAGE_SECONDS = 2.0
_EVENT_STREAM = CONTENT_TYPE.partition(";")[0]


@dataclass(slots=True)
class Lump:
    """What arrived together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)


class Wire(Protocol):
    """A provider's way to frame a reply; one for each reply."""

    def take(self, events: Sequence[ServerEvent], lump: Lump) -> bool:
        """Read events in their order, and return whether the terminal marker was among them.

        Raises `ProviderFault` if one tells of an error, anything else if one makes no sense; what came
        before that one is in the lump.
        """
        ...

    def finish(self) -> Finish | None:
        """Return the end, once the provider has said all that makes one."""
        ...


async def stream(
    provider: str,
    wire: Wire,
    open_response: Callable[[], Awaitable[Opened]],
    fault_of: Callable[[Exception], ProviderFault | None],
) -> AsyncGenerator[ModelEvent, None]:
    """Yield what a provider answers; see `ports.ChatModel.stream`.

    `open_response` asks; `fault_of` knows the SDK's own exceptions, and returns None for any other.
    """

    async def open_stream() -> Opened:
        opened = await open_response()
        if opened.content_type.partition(";")[0].strip().lower() != _EVENT_STREAM:
            await opened.source.aclose()
            raise fault(provider, "provider_protocol")
        return opened

    def fault_of_any(error: Exception, begun: bool) -> ProviderFault:
        return fault_of(error) or fault_of_error(provider, error, begun=begun)

    body = Body(open_stream, fault_of_any)
    decoder = Decoder()
    cleaner = TextCleaner()
    failure: ProviderFault | None = None
    over = False
    try:
        while failure is None and not over:
            lump = Lump()
            try:
                data = await (body.read() if wire.finish() is None else body.read_within(_USAGE_SECONDS))
                if not data:
                    if decoder.strange:
                        failure = fault(provider, "provider_protocol")
                    break
                over = wire.take(decoder.feed(data), lump)
            except ProviderFault as error:
                failure = error
            except Exception as error:
                failure = fault_of_error(provider, error, begun=True)
            if lump.reasoning:
                yield Reasoning(cleaned(lump.reasoning))
            text = cleaner.feed("".join(lump.text))
            if text:
                yield Delta(text)
            elif not lump.reasoning and failure is None:
                yield Ping()
        rest = cleaner.flush()
        if rest:
            yield Delta(rest)
        finish = wire.finish()
        if finish is not None:
            await body.end()
            yield finish if _believable(finish.usage) else msgspec.structs.replace(finish, usage=None)
        elif failure is not None:
            raise failure
    finally:
        await body.close()


class Chunk(Generic[T]):
    """Decodes what one event says."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> T:
        """Return what `data` says; raises `ValueError` or msgspec's errors where it makes no sense."""
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Half a surrogate pair, escaped, is JSON by its grammar (RFC 8259, 8.2); the rest may follow.
            return msgspec.convert(json.loads(data), self._kind)


def _believable(usage: Usage | None) -> bool:
    """Tell whether these can be counts: no store takes others, and a limit is counted with them."""
    return usage is None or all(0 <= count < 2**31 for count in (usage.input_tokens, usage.output_tokens))


def cleaned(parts: list[str]) -> str:
    """Return the parts as one text that every wire can carry."""
    cleaner = TextCleaner()
    return cleaner.feed("".join(parts)) + cleaner.flush()
