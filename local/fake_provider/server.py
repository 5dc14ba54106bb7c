"""The fake provider's HTTP/1.1 server, which records requests and counts events."""

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
    """A request as it was received. The names in `headers` are lower-case."""

    path: str
    headers: dict[str, str]
    body: Any


class Stats(msgspec.Struct, rename="camel"):
    """Counts since the start or the last reset.

    `closed_early` counts replies whose client left before the end, and `active` those in progress.
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
    """The server, an async context manager. With `api_key` it refuses other keys with 401; `tls` encrypts.

    Other processes control it by HTTP: `GET /_stats`, `GET /_requests`, `POST /_reset`, and `POST /_script`
    with `{"model": …, "script": {…} | null}`.
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
        """The server's root URL, without a slash at the end."""
        return f"{'http' if self._tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's adapter and compatible ones."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for Anthropic's adapter."""
        return self.url

    async def __aenter__(self) -> "FakeProvider":
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close every connection, and refuse new ones until `listen`."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.abort()
            await self._server.wait_closed()
            await self.until(lambda: not self._connections)
            self._server = None

    def script(self, model: str, script: Script | None) -> None:
        """Use `script` for requests to `model`; None removes it. Restarts the count of its calls."""
        self.stats.calls_by_model.pop(model, None)
        if script is None:
            self._scripts.pop(model, None)
        else:
            self._scripts[model] = script

    def reset(self) -> None:
        """Forget the scripts, requests and counts."""
        self._scripts.clear()
        self.requests.clear()
        active, open_connections = self.stats.active, self.stats.open_connections
        self.stats = Stats(active=active, open_connections=open_connections)

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for a condition on `stats`. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def opened(self, connection: Connection) -> None:
        """Count an opened connection."""
        self._connections.add(connection)
        self.stats.connections += 1
        self.stats.open_connections += 1
        self._changed.set()

    def closed(self, connection: Connection) -> None:
        """Count a closed connection."""
        self._connections.discard(connection)
        self.stats.open_connections -= 1
        self._changed.set()

    def began(self) -> None:
        """Count a reply whose sending begins."""
        self.stats.active += 1
        self._changed.set()

    def ended(self, *, early: bool) -> None:
        """Count a reply that was sent, or (`early`) whose client left before."""
        self.stats.active -= 1
        if early:
            self.stats.closed_early += 1
        else:
            self.stats.answered += 1
        self._changed.set()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[Plan, bool]:
        """Return the response's plan, and whether it is a model's reply, not a control request's."""
        target = path.partition("?")[0]
        wire = next((wire for end, wire in _WIRES.items() if target.endswith(end)), None)
        if wire is None:
            return Plan(((0.0, self._control(method, target, body)),)), False
        try:
            request = msgspec.json.decode(body)
            model, prompt = str(request["model"]), _prompt_of(request["messages"])
            script = self._scripts.get(model) or script_in_name(model) or Script()
        except (ValueError, LookupError, TypeError):
            return error_plan(wire, 400, Script()), True
        self.requests.append(Received(path, headers, request))
        self.stats.calls += 1
        self.stats.calls_by_model[model] += 1
        script = script.of_call(self.stats.calls_by_model[model])
        if self._api_key is not None and self._api_key not in _keys_of(headers):
            return error_plan(wire, 401, script), True
        if request.get("stream") is not True:
            return error_plan(wire, 400, script), True
        if script.status != 200:
            return error_plan(wire, script.status, script), True
        refused = _refusal(script, request)
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
                    command = msgspec.json.decode(body, type=_Scripting)
                except ValueError as error:
                    return response(400, msgspec.json.encode({"error": str(error)}))
                self.script(command.model, command.script)
                return response(200, b"{}")
            case "POST", "/_reset":
                self.reset()
                return response(200, b"{}")
        return response(404, b'{"error":"The fake provider has no such page."}')


def _refusal(script: Script, request: dict[str, Any]) -> str:
    """Return the error body for what the script does not accept in a request; "" if it accepts all."""
    unknown = next((name for name in script.unknown_fields if name in request), None)
    if unknown is not None:
        message = f"Unsupported parameter: '{unknown}' is not supported with this model."
        return msgspec.json.encode({"error": {"message": message, "param": unknown}}).decode()
    asked = sum(len(str(turn["content"]).split()) for turn in request["messages"])
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
