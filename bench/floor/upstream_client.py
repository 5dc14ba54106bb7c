"""Asks the model on a bare socket: what has arrived is parsed, joined and handed on at once."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import httptools
import msgspec


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


class UpstreamClient:
    """Connections to the model, kept for the next question."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._path = f"{address.path}/chat/completions"
        self.idle: list[_Connection] = []

    async def ask(
        self, model: str, prompt: str, take: Callable[[str], None], end: Callable[[], None]
    ) -> None:
        """Ask; `take` gets the text as it comes, `end` tells that it is whole."""
        messages = [{"role": "user", "content": prompt}]
        body = msgspec.json.encode({"model": model, "messages": messages, "stream": True})
        if self.idle:
            connection = self.idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        connection.take, connection.end = take, end
        connection.transport.write(
            b"POST %b HTTP/1.1\r\nhost: upstream\r\nauthorization: Bearer key\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (self._path.encode(), len(body), body)
        )


def _nothing(_: str = "") -> None:
    pass


class _Connection(asyncio.Protocol):
    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._rest = b""
        self._over = False
        self.take: Callable[[str], None] = _nothing
        self.end: Callable[[], None] = _nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by class

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._over = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        *frames, self._rest = b"".join((self._rest, *self._body)).split(b"\n\n")
        self._body.clear()
        text = []
        for frame in frames:
            if frame != b"data: [DONE]":
                for choice in _decode(frame[6:]).choices:
                    if choice.delta.content:
                        text.append(choice.delta.content)
        if text:
            self.take("".join(text))
        if self._over:
            self._over = False
            self._parser = httptools.HttpResponseParser(self)
            end, self.take, self.end = self.end, _nothing, _nothing
            self._client.idle.append(self)
            end()
