"""A user's client of a server: it starts, reads, stops, and remembers what may not be told."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from parley.streaming.frames import HEARTBEAT
from parley.support.sse_decoder import Decoder
from tests.processes import KEY_SECRET, VERIFY, Server

PROVIDER_KEY = "key-of-the-fake"


class Refused(AssertionError):
    """A request got a status that the test did not expect."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text}")
        self.status = response.status_code
        self.error: dict[str, Any] = response.json()["error"] if response.content else {}
        self.headers = response.headers


class Transcript:
    """What a client shows of a stream, kept as a browser would keep it."""

    def __init__(self) -> None:
        self.text = ""
        self.cursor: str | None = None
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.status = 0

    def take(self, event: dict[str, Any], cursor: str) -> None:
        """Apply one event."""
        self.events.append(event)
        self.cursor = cursor or self.cursor
        if event["type"] == "token":
            self.text += event["content"]
        elif event["type"] == "reset":
            self.text = ""

    @property
    def end(self) -> dict[str, Any] | None:
        """The terminal event, once it came."""
        ends = [event for event in self.events if event["type"] in ("done", "error")]
        assert len(ends) <= 1, ends
        return ends[0] if ends else None

    def types(self) -> list[str]:
        """The types of the events, in order."""
        return [event["type"] for event in self.events]

    @property
    def source(self) -> str:
        """Where the latest stream came from."""
        return str([event for event in self.events if event["type"] == "start"][-1]["source"])


class Secrets:
    """What no log line and no error body may hold: prompts, replies, session ids and keys."""

    def __init__(self) -> None:
        self.words = {KEY_SECRET, PROVIDER_KEY, "You said"}
        self.sessions: set[str] = set()
        self.errors: list[str] = []

    def sent(self, prompt: str | None) -> None:
        """Note a prompt, unless it is so short that it may be anywhere."""
        if prompt is not None and len(prompt) >= 10:
            self.words.add(prompt)

    async def listen(self, response: httpx.Response) -> None:
        """Note what a refusal says."""
        if response.status_code >= 400:
            await response.aread()
            self.errors.append(_without_news(response.text))

    def check(self, servers: "list[Server]") -> None:
        """Look for them in everything that the servers wrote, and in every refusal."""
        for server in servers:
            said = server.output()
            assert not [word for word in self.words | self.sessions if word in said], server.log
        for error in self.errors:
            # A refusal may name the session that keeps its user's chat busy.
            assert not [word for word in self.words if word in error], error
        self.errors = []


def _without_news(refusal: str) -> str:
    """Leave out what is new in a chat that has gone on: its user may read it, as a history."""
    if '"chat_moved"' not in refusal:
        return refusal
    body = json.loads(refusal)
    del body["error"]["messages"]
    return json.dumps(body)


class Client:
    """A user's client of one server."""

    def __init__(self, url: str, user: str = "demo-pro", secrets: Secrets | None = None) -> None:
        self.secrets = secrets or Secrets()
        hooks = {"response": [self.secrets.listen]}
        # Well before the server closes an idle connection, so that no request meets the close.
        limits = httpx.Limits(keepalive_expiry=2)
        self.http = httpx.AsyncClient(
            base_url=f"{url}/api", timeout=60, event_hooks=hooks, verify=VERIFY, limits=limits
        )
        self.user = user

    async def start(
        self, prompt: str | None, model: str = "fake", key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Open a session."""
        body = {"prompt": prompt, "modelId": model, "userId": self.user} | fields
        headers = {"idempotency-key": key} if key else {}
        self.secrets.sent(prompt)
        response = await self.http.post("/chat/start", json=body, headers=headers)
        if response.status_code != 201:
            raise Refused(response)
        started: dict[str, Any] = response.json()
        self.secrets.sessions.add(started["sessionId"])
        return started

    async def events(
        self, session_id: str, reading: Transcript | None = None, cursor: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a stream event by event; the connection is closed with the generator."""
        reading = reading if reading is not None else Transcript()
        headers = {"last-event-id": cursor} if cursor else {}
        params = {"sessionId": session_id}
        async with self.http.stream("GET", "/chat/stream", params=params, headers=headers) as response:
            reading.status = response.status_code
            if response.status_code == 204:
                return
            if response.status_code != 200:
                await response.aread()
                raise Refused(response)
            decoder = Decoder()
            # A reader that is let go has its body broken off; behind the Lambda adapter, it ends.
            chunks = response.aiter_raw()
            while (chunk := await _next(chunks)) is not None:
                reading.comments += chunk.count(HEARTBEAT)
                for event in decoder.feed(chunk):
                    body = json.loads(event.data)
                    reading.take(body, event.last_event_id)
                    yield body

    async def read(
        self, session_id: str, reading: Transcript | None = None, *, upto: int | None = None
    ) -> Transcript:
        """Read to the end, or until at least `upto` characters are there, from the reading's cursor."""
        reading = reading if reading is not None else Transcript()
        async with contextlib.aclosing(self.events(session_id, reading, reading.cursor)) as events:  # type: ignore[type-var]
            async for _ in events:
                if upto is not None and len(reading.text) >= upto:
                    break
        return reading

    async def ask(
        self, prompt: str | None, model: str = "fake", **fields: Any
    ) -> tuple[dict[str, Any], Transcript]:
        """Start and read to the end."""
        started = await self.start(prompt, model, **fields)
        return started, await self.read(started["sessionId"])

    async def stop(self, session_id: str) -> None:
        """Stop a session."""
        body = {"sessionId": session_id, "userId": self.user}
        response = await self.http.post("/chat/stop", json=body)
        if response.status_code != 202:
            raise Refused(response)

    async def get(self, path: str, **params: Any) -> Any:
        """Read something as the user."""
        response = await self.http.get(path, params={"userId": self.user} | params)
        if response.status_code != 200:
            raise Refused(response)
        return response.json()

    async def history(self, chat_id: str, **params: Any) -> dict[str, Any]:
        """Read a chat."""
        page: dict[str, Any] = await self.get("/chat/history", chatId=chat_id, **params)
        return page

    async def reply(self, started: dict[str, Any]) -> dict[str, Any]:
        """Return the stored reply of a session."""
        page = await self.history(started["chatId"], limit=200)
        return next(message for message in page["messages"] if message["id"] == started["replyId"])

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    """Return the next chunk; None at the end of the body, and where it breaks off."""
    try:
        return await anext(chunks, None)
    except httpx.RemoteProtocolError:
        return None


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message of the history."""
    return "".join(part["text"] for part in message["parts"])


async def eventually(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Wait until `condition`, which may be a coroutine function, returns something true."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
