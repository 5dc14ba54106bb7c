"""The fake provider's HTTP/1.1 server, and what it has seen."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from ssl import SSLContext
from types import TracebackType
from typing import Any

import msgspec

from local.fake_provider.connection import Connection
from local.fake_provider.plan import Plan, error_plan, reply_plan, response
from local.fake_provider.script import Script, script_in_name

_WIRES = {"/chat/completions": "openai", "/messages": "anthropic"}


class Received(msgspec.Struct, frozen=True):
    """A request as it came; `headers` has lower-case names."""

    path: str
    headers: dict[str, str]
    body: Any


class Stats(msgspec.Struct, rename="camel"):
    """What the fake has seen since it started or was reset.

    `closed_early` counts replies whose client left before they were whole; `active` those still on the way.
    """

    calls: int = 0
    calls_by_model: Counter[str] = msgspec.field(default_factory=Counter)
    answered: int = 0
    active: int = 0
    closed_early: int = 0
    connections: int = 0
    open_connections: int = 0


class _Scripting(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    script: Script | None


class FakeProvider:
    """The server; an async context manager. `api_key` makes it answer 401 to any other key; `tls` encrypts.

    Control over HTTP, for other processes: `GET /_stats`, `GET /_requests`, `POST /_script` with
    `{"model": …, "script": {…} | null}`, `POST /_reset`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.stats = Stats()
        self.requests: deque[Received] = deque(maxlen=1000)
        self._api_key = api_key
        self._tls = tls
        self._scripts: dict[str, Script] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """The server's root, without a slash at the end."""
        return f"{'http' if self._tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI and what is compatible with it."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for Anthropic."""
        return self.url

    async def __aenter__(self) -> "FakeProvider":
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Accept connections, at the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close every connection and refuse new ones, until `listen`."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.abort()
            await self._server.wait_closed()
            await self.until(lambda: not self._connections)
            self._server = None

    def script(self, model: str, script: Script | None) -> None:
        """Answer questions to `model` by `script`, or as before where it is None; counts its calls anew."""
        self.stats.calls_by_model.pop(model, None)
        if script is None:
            self._scripts.pop(model, None)
        else:
            self._scripts[model] = script

    def reset(self) -> None:
        """Forget scripts, requests and counts."""
        self._scripts.clear()
        self.requests.clear()
        active, open_connections = self.stats.active, self.stats.open_connections
        self.stats = Stats(active=active, open_connections=open_connections)

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait for a condition on `stats`; raises `TimeoutError`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def opened(self, connection: Connection) -> None:
        """Count a connection."""
        self._connections.add(connection)
        self.stats.connections += 1
        self.stats.open_connections += 1
        self._changed.set()

    def closed(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self.stats.open_connections -= 1
        self._changed.set()

    def began(self) -> None:
        """Count a reply that is on its way."""
        self.stats.active += 1
        self._changed.set()

    def ended(self, *, early: bool) -> None:
        """Count a reply that was sent, or whose client left before."""
        self.stats.active -= 1
        if early:
            self.stats.closed_early += 1
        else:
            self.stats.answered += 1
        self._changed.set()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[Plan, bool]:
        """Return what to send, and whether it is a reply (and not a word about the fake itself)."""
        target = path.partition("?")[0]
        wire = next((wire for end, wire in _WIRES.items() if target.endswith(end)), None)
        if wire is None:
            return Plan(((0.0, self._control(method, target, body)),)), False
        try:
            question = msgspec.json.decode(body)
            model, prompt = str(question["model"]), _prompt_of(question["messages"])
            script = self._scripts.get(model) or script_in_name(model) or Script()
        except (ValueError, LookupError, TypeError):
            return error_plan(wire, 400, Script()), True
        self.requests.append(Received(path, headers, question))
        self.stats.calls += 1
        self.stats.calls_by_model[model] += 1
        script = script.of_call(self.stats.calls_by_model[model])
        if self._api_key is not None and self._api_key not in _keys_of(headers):
            return error_plan(wire, 401, script), True
        if question.get("stream") is not True:
            return error_plan(wire, 400, script), True
        if script.status != 200:
            return error_plan(wire, script.status, script), True
        refused = _refusal(script, question)
        if refused:
            return error_plan(wire, 400, msgspec.structs.replace(script, error_body=refused)), True
        return reply_plan(wire, script, model, prompt), True

    def _control(self, method: str, path: str, body: bytes) -> bytes:
        match method, path:
            case "GET", "/_stats":
                return response(200, msgspec.json.encode(self.stats))
            case "GET", "/_requests":
                return response(200, msgspec.json.encode(list(self.requests)))
            case "POST", "/_script":
                try:
                    order = msgspec.json.decode(body, type=_Scripting)
                except ValueError as error:
                    return response(400, msgspec.json.encode({"error": str(error)}))
                self.script(order.model, order.script)
                return response(200, b"{}")
            case "POST", "/_reset":
                self.reset()
                return response(200, b"{}")
        return response(404, b'{"error":"The fake provider has no such page."}')


def _refusal(script: Script, question: dict[str, Any]) -> str:
    """Return the body of a refusal of what this script's server does not take, if there is anything."""
    unknown = next((name for name in script.unknown_fields if name in question), None)
    if unknown is not None:
        message = f"Unsupported parameter: '{unknown}' is not supported with this model."
        return msgspec.json.encode({"error": {"message": message, "param": unknown}}).decode()
    asked = sum(len(str(turn["content"]).split()) for turn in question["messages"])
    if script.context_tokens and asked > script.context_tokens:
        counts = {"n_prompt_tokens": asked, "n_ctx": script.context_tokens}
        error = {"code": 400, "message": "too long", "type": "exceed_context_size_error", **counts}
        return msgspec.json.encode({"error": error}).decode()
    return ""


def _prompt_of(messages: list[dict[str, Any]]) -> str:
    content = next(turn["content"] for turn in reversed(messages) if turn["role"] == "user")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _keys_of(headers: dict[str, str]) -> tuple[str, str]:
    return headers.get("authorization", "").removeprefix("Bearer "), headers.get("x-api-key", "")
