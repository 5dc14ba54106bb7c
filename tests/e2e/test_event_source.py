"""Random byte streams, read alike by Chromium's EventSource, the server's decoder and the web client's."""

import asyncio
import random
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from parley.support.sse_decoder import Decoder
from tests.client import eventually

_WEB = Path(__file__).resolve().parent.parent.parent / "web"
pytestmark = pytest.mark.asyncio(loop_scope="session")

_BUILD = """
import { build } from "vite";
await build({
  configFile: false,
  logLevel: "error",
  build: {
    outDir: process.argv[1],
    lib: { entry: "src/chat/sse.ts", formats: ["es"], fileName: "sse" },
  },
});
"""
_PAGE = """<!doctype html><title>Streams</title><script type="module">
import { SseDecoder } from "/sse.js";

// A MessageEvent may be named "error" too; the event that tells of the stream's end is none.
window.byEventSource = (number, names) => new Promise((resolve) => {
  const source = new EventSource(`/streams/${number}`);
  const events = [];
  const take = (event) => {
    if (event instanceof MessageEvent) events.push([event.type, event.data, event.lastEventId]);
    else if (event.type === "error") { source.close(); resolve(events); }
  };
  for (const name of names) source.addEventListener(name, take);
});

window.byClient = async (number, places) => {
  const bytes = new Uint8Array(await (await fetch(`/streams/${number}`)).arrayBuffer());
  // The decoder looks for the byte order mark itself.
  const text = new TextDecoder("utf-8", { ignoreBOM: true });
  const decoder = new SseDecoder();
  const events = [];
  let from = 0;
  for (const upto of [...places, bytes.length]) {
    const piece = text.decode(bytes.subarray(from, upto), { stream: true });
    events.push(...decoder.feed(piece).map((event) => [event.event, event.data, event.lastEventId]));
    from = upto;
  }
  return events;
};
window.ready = true;
</script>"""

_NAMES = [
    "message",
    "error",
    "open",
    "done",
    "é",
    "two words",
    " ",
    "x\ufeff",
    "\u2028",
    "a:b",
    "\0",
    "Message",
]
_VALUES = [
    "", " ", "  two", "text", ":", ": x", "1-42", "7", "0", '{"type":"token"}', "\u2028\u2029",
    "\x85\x0b\x0c\x1c", "\0", "a\0b", "\ufeff", "e\u0301 🦜 👩‍🚀", "\t", "data: x", "</script>", "9" * 40,
]  # fmt: skip
_FIELDS = [
    "data", "data", "data", "data", "id", "id", "event", "retry",
    "Data", "data ", " data", "da", "", "\ufeffdata", "\0",
]  # fmt: skip
_BROKEN = [
    b"\xff", b"\xc3", b"\xe2\x80", b"\xf0\x9f\xa6", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80",
    b"\x80",
]  # fmt: skip
_ENDS = [b"\n", b"\r", b"\r\n"]
_MARK = b"\xef\xbb\xbf"


def _line(dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return b""
    name = dice.choice(_FIELDS)
    value = dice.choice(_NAMES if name == "event" else _VALUES).encode()
    if dice.random() < 0.1:
        place = dice.randrange(len(value) + 1)
        value = value[:place] + dice.choice(_BROKEN) + value[place:]
    return name.encode() + dice.choice([b":", b": ", b": ", b":  ", b""]) + value


def random_stream(dice: random.Random) -> bytes:
    """Return an event stream, or nearly one: every line end, odd fields, broken UTF-8, an end anywhere."""
    ends = _ENDS if dice.random() < 0.5 else [dice.choice(_ENDS)]
    stream = dice.choice([b"", b"", b"", _MARK, _MARK * 2, _MARK[:2]])
    stream += b"".join(_line(dice) + dice.choice(ends) for _ in range(dice.randrange(1, 30)))
    if stream.startswith((_MARK + b"\n", _MARK + b"\r")):
        # Chromium takes a line end right after the mark for text, unlike the standard; nobody sends that.
        stream = stream.replace(_MARK, _MARK + b":", 1)
    return stream[: dice.randrange(len(stream) + 1)] if dice.random() < 0.2 else stream


def _decode(pieces: list[bytes]) -> list[list[str]]:
    decoder = Decoder()
    return [
        [event.event, event.data.decode("utf-8", "replace"), event.last_event_id]
        for piece in pieces
        for event in decoder.feed(piece)
    ]


@dataclass
class Stream:
    """What is served, in which pieces, and what asked for it."""

    body: bytes
    places: list[int] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)

    @property
    def pieces(self) -> list[bytes]:
        """The stream cut at its places."""
        bounds = [0, *self.places, len(self.body)]
        return [self.body[start:end] for start, end in pairwise(bounds)]


class Site:
    """Serves the page, the client's decoder and the streams, each piece as a packet of its own."""

    def __init__(self, decoder: bytes) -> None:
        self._decoder = decoder
        self.streams: list[Stream] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ")[1]
            if path.startswith("/streams/"):
                stream = self.streams[int(path.rpartition("/")[2])]
                last_id = re.search(r"^last-event-id: *(.*?)\r$", head, re.MULTILINE | re.IGNORECASE)
                stream.asked.append((asyncio.get_running_loop().time(), last_id[1] if last_id else ""))
                await self._send(writer, "text/event-stream", stream.pieces)
            elif path == "/sse.js":
                await self._send(writer, "text/javascript", [self._decoder])
            else:
                await self._send(writer, "text/html; charset=utf-8", [_PAGE.encode()])
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, kind: str, pieces: list[bytes]) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.0005)


@pytest.fixture(scope="session")
def client_decoder(site: None, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the web client's decoder as the browser runs it."""
    folder = tmp_path_factory.mktemp("decoder")
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", _BUILD, str(folder)],
        cwd=_WEB, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "sse.js").read_bytes()


@pytest_asyncio.fixture(loop_scope="session")
async def served(client_decoder: bytes, browser: Browser) -> AsyncIterator[tuple[Site, Page]]:
    """Return streams to be filled, and a page that reads them."""
    made = Site(client_decoder)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    page = await browser.new_page()
    await page.goto(made.url)
    await page.wait_for_function("window.ready")
    yield made, page
    await page.close()
    server.close()


async def test_chromium_the_server_and_the_client_read_the_same(served: tuple[Site, Page]) -> None:
    site, page = served
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(300):
        stream = random_stream(dice)
        count = dice.choice([0, 1, 3, 10, len(stream)])
        places = sorted(dice.randrange(len(stream) + 1) for _ in range(min(count, 40)))
        site.streams.append(Stream(stream, places))
    compared = 0

    async def compare(number: int) -> None:
        nonlocal compared
        stream = site.streams[number]
        ours = _decode(stream.pieces)
        # The replacement character is in the names that broken bytes were put into.
        names = sorted({"message", *_NAMES, *(event[0] for event in _decode([stream.body]))})
        theirs = await page.evaluate("([n, names]) => byEventSource(n, names)", [number, names])
        client = await page.evaluate("([n, places]) => byClient(n, places)", [number, stream.places])
        assert ours == theirs, (seed, stream)
        assert client == theirs, (seed, stream)
        compared += len(theirs)

    # A browser opens six connections to one server.
    for first in range(0, len(site.streams), 4):
        await asyncio.gather(*(compare(number) for number in range(first, first + 4)))
    assert compared > 100


_COMING_BACK = [
    b"id: 1-42\nretry: 60\ndata: x\n\n",
    b"retry:60\rid:7\rdata\r\r",
    b"retry: 60\nretry: 6x\n\ndata: x\n\n",
    b"id: 3\nid: a\0b\nretry: 60\ndata: x\n\nid: 4\n",
    b"data: x\n\n",
    b"retry: 60 \ndata: x\n\n",
    b"retry: +60\ndata: x\n\n",
    b"retry: 6e1\n\ndata: x\n\n",
    "retry: ٦٠\nid: é\ndata: x\n\n".encode(),
]


async def test_chromium_comes_back_when_and_with_what_the_decoder_says(served: tuple[Site, Page]) -> None:
    site, page = served
    site.streams = [Stream(body) for body in _COMING_BACK]
    await page.evaluate(
        "count => { for (let n = 0; n < count; n++) new EventSource(`/streams/${n}`); }", len(site.streams)
    )
    await eventually(lambda: all(len(stream.asked) > 1 for stream in site.streams), 60)
    soon: list[tuple[float, float]] = []
    late: list[tuple[float, float]] = []
    for stream in site.streams:
        decoder = Decoder()
        [event] = decoder.feed(stream.body)
        (first, _), (second, last_id) = stream.asked[:2]
        (soon if decoder.retry_ms == 60 else late).append((second, second - first))
        assert last_id.encode("latin-1").decode() == event.last_event_id
    # Without a number that it understands, Chromium waits for three seconds: the others are back by then.
    assert max(soon)[0] < min(late)[0], (soon, late)
    assert min(waited for _, waited in late) > 2.5, late
