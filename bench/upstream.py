"""A fast fake of OpenAI's (and Anthropic's) streaming API, which is never what limits a relay.

The model's name says what it answers: `full-200` sends 200 tokens as fast as it can, in pieces as large as a
network's packets; `slow-1000` sends a thousand, one by one, at 20 a second. Every token ends in `~`, which
stands nowhere else, so a reader counts tokens by counting bytes. `GET /stats` tells what was asked and sent,
`POST /end` ends every reply that is under way.
"""

import argparse
import asyncio
import itertools
import json

import uvloop

TOKENS_PER_SECOND = 20
MARK = b"~"
_WORDS = (" the~", " reply~", " of~", " a~", " model~", " in~", " tokens~", ",~")
# What fits into a packet of 1,500 bytes.
_TOKENS_PER_PACKET = 5
# A second's streams are spread over so many ticks, as streams of many users are.
_SLOTS = 25
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class HttpProtocol:
    """How a provider frames a reply: each event a chunk of its own, as the providers send them."""

    opening: bytes
    tokens: tuple[bytes, ...]
    closing: bytes


class OpenAI(HttpProtocol):
    """Chat completion chunks with all that OpenAI puts into them."""

    def __init__(self) -> None:
        self.opening = self._event({"role": "assistant", "content": "", "refusal": None})
        self.tokens = tuple(self._event({"content": word}) for word in _WORDS)
        usage = {"prompt_tokens": 20, "completion_tokens": 200, "total_tokens": 220}
        self.closing = (
            self._event({}, finish="stop")
            + self._event(None, usage=usage)
            + _chunk(b"data: [DONE]\n\n")
            + b"0\r\n\r\n"
        )

    @staticmethod
    def _event(delta: dict[str, object] | None, finish: str | None = None, usage: object = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {
            "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
            "object": "chat.completion.chunk",
            "created": 1741570283,
            "model": "gpt-5.4-mini-2026-03-17",
            "service_tier": "default",
            "system_fingerprint": "fp_44709d6fcb",
            "choices": [] if delta is None else [choice],
            "usage": usage,
        }
        return _chunk(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())


class Anthropic(HttpProtocol):
    """Named events around one block of text."""

    def __init__(self) -> None:
        usage = {"input_tokens": 20, "output_tokens": 1}
        message: dict[str, object] = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        block = {"type": "text", "text": ""}
        self.opening = self._event("message_start", message=message) + self._event(
            "content_block_start", index=0, content_block=block
        )
        self.tokens = tuple(
            self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in _WORDS
        )
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        self.closing = (
            self._event("content_block_stop", index=0)
            + self._event("message_delta", delta=end, usage={"output_tokens": 200})
            + self._event("message_stop")
            + b"0\r\n\r\n"
        )

    @staticmethod
    def _event(name: str, **body: object) -> bytes:
        data = json.dumps({"type": name, **body}, separators=(",", ":"))
        return _chunk(f"event: {name}\ndata: {data}\n\n".encode())


class Upstream:
    """The server's state: what is under way, what was asked and sent."""

    def __init__(self) -> None:
        self.calls = 0
        self.sent = 0
        self._late = 0.0
        self.wires = {b"/v1/chat/completions": OpenAI(), b"/v1/messages": Anthropic()}
        self._slots: list[set[Connection]] = [set() for _ in range(_SLOTS)]
        self._next_slot = itertools.cycle(self._slots)

    def stats(self) -> bytes:
        """Return what was asked and sent so far, and the worst delay of a token since this was last asked."""
        body = b'{"calls":%d,"sent":%d,"lateMs":%d}' % (self.calls, self.sent, self._late * 1000)
        self._late = 0.0
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    def slow(self, connection: "Connection") -> None:
        """Send a connection its tokens tick by tick."""
        slot = next(self._next_slot)
        slot.add(connection)
        connection.slot = slot

    def end(self) -> None:
        """End every reply under way, as if the model had no more to say."""
        for slot in self._slots:
            for connection in list(slot):
                connection.finish()

    async def tick(self) -> None:
        """Send what is due, for ever."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number in itertools.count(1):
            for connection in list(self._slots[number % _SLOTS]):
                connection.send(1)
            early = begin + number / (_SLOTS * TOKENS_PER_SECOND) - loop.time()
            self._late = max(self._late, -early)
            await asyncio.sleep(max(0.0, early))


class Connection(asyncio.Protocol):
    """One client's requests, one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._wire: HttpProtocol = upstream.wires[b"/v1/chat/completions"]
        self._left = 0
        self._words = itertools.cycle(self._wire.tokens)
        self.slot: set[Connection] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by class

    def connection_lost(self, error: Exception | None) -> None:
        if self.slot is not None:
            self.slot.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take():
            pass

    def _take(self) -> bool:
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return False
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return False
        self._received = rest[length:]
        self._answer(head.split(b" ", 2)[1], rest[:length])
        return True

    def _answer(self, path: bytes, body: bytes) -> None:
        upstream = self._upstream
        wire = upstream.wires.get(path)
        if wire is None:
            if path == b"/end":
                upstream.end()
            self._transport.write(upstream.stats())
            return
        upstream.calls += 1
        speed, _, count = str(json.loads(body)["model"]).rpartition("/")[2].partition("-")
        self._wire, self._left = wire, int(count)
        self._words = itertools.cycle(wire.tokens)
        if speed == "full":
            self._transport.write(_HEAD + wire.opening)
            self._pump()
            return
        self._transport.write(_HEAD + wire.opening)
        self.send(1)
        upstream.slow(self)

    def _pump(self) -> None:
        """Send packet after packet; each goes out before the next, and between those of other streams."""
        self.send(min(self._left, _TOKENS_PER_PACKET))
        if self._left and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._pump)

    def send(self, count: int) -> None:
        """Send the next tokens."""
        self._transport.write(b"".join(itertools.islice(self._words, count)))
        self._upstream.sent += count
        self._left -= count
        if not self._left:
            self.finish()

    def finish(self) -> None:
        """End the reply."""
        self._transport.write(self._wire.closing)
        if self.slot is not None:
            self.slot.discard(self)
            self.slot = None


async def _serve(port: int) -> None:
    upstream = Upstream()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", port, backlog=4096)
    print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await upstream.tick()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(_serve(parser.parse_args().port))
