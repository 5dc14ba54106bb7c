"""Replies as they come over a provider's wire, read without a connection."""

import json
from collections.abc import AsyncIterator, Iterable

from parley.domain.errors import ProviderFault
from parley.domain.events import Delta, Finish, FinishReason, ModelEvent, Reasoning
from parley.providers.chat_completion import ChatCompletionParser
from parley.providers.event_stream import ReplyParser, stream
from parley.providers.messages import MessagesParser
from parley.providers.response_body import Opened

DONE = "data: [DONE]\n\n"


def t(content: object, finish: object = None) -> str:
    """Return a chunk of a chat completion with this content."""
    return data({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]})


def stop(word: object = "stop") -> str:
    """Return the chunk that ends a chat completion."""
    return data({"choices": [{"index": 0, "delta": {}, "finish_reason": word}]})


def data(body: object) -> str:
    """Return an event without a name."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def event(name: str, **fields: object) -> str:
    """Return an event of Anthropic's wire."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, ensure_ascii=False)}\n\n"


class _Pieces:
    """A response's body that comes in these pieces; an error among them is raised."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        """Nothing is open."""


class Heard:
    """What came of a reply."""

    def __init__(self, events: list[ModelEvent], fault: ProviderFault | None) -> None:
        self.events = events
        self.fault = fault

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def reasoning(self) -> str:
        """What it thinks."""
        return "".join(event.text for event in self.events if isinstance(event, Reasoning))

    @property
    def finish(self) -> Finish | None:
        """Its end, where nothing followed."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Finish) else None

    @property
    def reason(self) -> FinishReason | str | None:
        """Why it ended: a finish reason, the code of a fault, or None for a reply that was cut."""
        if self.fault is not None:
            return self.fault.fault
        return self.finish.reason if self.finish else None


async def hear(
    parser: ReplyParser,
    pieces: Iterable[str | bytes | Exception],
    content_type: str = "text/event-stream",
    **headers: str,
) -> Heard:
    """Read a reply whose body comes in these pieces; a lone surrogate in one is a byte that is no UTF-8."""
    encoded = [
        piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece for piece in pieces
    ]
    told = {name.replace("_", "-"): value for name, value in headers.items()}

    async def opened() -> Opened:
        return Opened(content_type, _Pieces(encoded), told)

    events: list[ModelEvent] = []
    fault = None
    try:
        async for found in _events(stream("The server", parser, opened, lambda _: None)):
            events.append(found)
    except ProviderFault as error:
        fault = error
    return Heard(events, fault)


async def _events(events: AsyncIterator[ModelEvent]) -> AsyncIterator[ModelEvent]:
    async for found in events:
        yield found


async def chat(*pieces: str | bytes | Exception, label: str = "text/event-stream", **headers: str) -> Heard:
    """Read a chat completion."""
    return await hear(ChatCompletionParser("The server"), pieces, label, **headers)


async def messages(*pieces: str | bytes | Exception, label: str = "text/event-stream") -> Heard:
    """Read a reply on Anthropic's wire."""
    return await hear(MessagesParser("The server"), pieces, label)
