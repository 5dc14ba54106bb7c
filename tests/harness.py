"""Real servers on real sockets for the tests: Parley processes, a fake provider, and a client."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from parley.streaming.frames import HEARTBEAT
from parley.support.sse_decoder import Decoder
from parley.usecases.purge import Purged, purge
from parley.valkey.log import ValkeyLog
from tests.forkserver import Forked

_ROOT = Path(__file__).resolve().parent.parent
_SECRET = "a secret that only the tests know, long enough"
_KEY = "key-of-the-fake"
_names = itertools.count()
# All is plain HTTP here, and to load the certificates that nobody asks for takes longer than a request.
_VERIFY = False
# What serves many streams runs on the one, Lambda on the other.
_LOOPS = ("asyncio", "local.loop:new_event_loop")


class Process:
    """A child process with a URL; `freeze` and `thaw` stop and continue it."""

    def __init__(self, process: "subprocess.Popen[bytes] | Forked", log: Path) -> None:
        """`log` is where its standard error goes."""
        self.process = process
        self.log = log
        self.url = ""

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to end, and wait for that."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def freeze(self) -> None:
        """Stop it where it stands."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


def _environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    path = os.pathsep.join([str(_ROOT / "layers" / "common"), str(_ROOT)])
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}


_servers: Counter[str] = Counter()


def _loop() -> str:
    """Return a server's event loop: of a test's servers, either by turns; the same when it is run again."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    _servers[test] += 1
    return _LOOPS[(zlib.crc32(test.encode()) + _servers[test]) % 2]


class Server(Process):
    """One Parley process, as the laptop runs it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        defaults = {
            "KEY_SECRET": _SECRET,
            "AUTH_MODE": "trusted",
            "DEMO_MODEL": "true",
            "DEMO_TOKENS_PER_SECOND": "0",
            "LOG_LEVEL": "INFO",
        }
        # Port 0 lets the kernel choose; uvicorn says which on standard error.
        arguments = ["local.server:app", "--host", "127.0.0.1", "--port", "0", "--loop", _loop()]
        arguments += [
            "--http",
            "parley.http_server.protocol:HttpProtocol",
            "--no-access-log",
            "--timeout-graceful-shutdown",
            "5",
        ]
        env = _environment(**(defaults | settings))
        log = folder / f"server-{next(_names)}.log"
        self.out = log.with_suffix(".out")
        log.touch()
        super().__init__(self._start(arguments, env, log), log)
        self.url = self._wait()

    def _start(
        self, arguments: list[str], env: dict[str, str], log: Path
    ) -> "subprocess.Popen[bytes] | Forked":
        return Forked(arguments, env, self.out, log)

    def output(self) -> str:
        """Return all it wrote."""
        return self.log.read_text() + self.out.read_text()

    def _wait(self) -> str:
        deadline = time.monotonic() + 30
        mark = "Uvicorn running on "
        while time.monotonic() < deadline and self.process.poll() is None:
            text = self.log.read_text()
            if mark in text:
                return text.partition(mark)[2].split(" ", 1)[0]
            time.sleep(0.02)
        self.close()
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")


class FreshServer(Server):
    """A server with an interpreter of its own, for what happens while modules are imported."""

    def _start(self, arguments: list[str], env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "uvicorn", *arguments]
        with self.out.open("ab") as out, log.open("ab") as err:
            return subprocess.Popen(
                command, cwd=_ROOT, env=env, stdout=out, stderr=err, start_new_session=True
            )


class Fake(Process):
    """The fake provider in a process of its own, scripted over HTTP."""

    arguments: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "local.fake_provider", "--port", "0", *self.arguments]
        log = folder / f"fake-{next(_names)}.log"
        with log.open("ab") as err:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )
        super().__init__(process, log)
        assert process.stdout is not None
        with process.stdout:
            mark, _, url = process.stdout.readline().decode().partition("fake provider: ")
        if mark or not url:
            raise RuntimeError(f"the fake provider did not start: {log.read_text()[-2000:]}")
        self.url = url.strip()

    def stats(self) -> dict[str, Any]:
        """Return what it has seen."""
        stats: dict[str, Any] = httpx.get(f"{self.url}/_stats", verify=_VERIFY).raise_for_status().json()
        return stats

    def calls(self, model: str) -> int:
        """Return how often a model was asked."""
        return int(self.stats()["callsByModel"].get(model, 0))

    def requests(self) -> list[dict[str, Any]]:
        """Return the latest requests."""
        response = httpx.get(f"{self.url}/_requests", verify=_VERIFY)
        found: list[dict[str, Any]] = response.raise_for_status().json()
        return found

    def script(self, model: str, **script: Any) -> None:
        """Script a model's replies."""
        body = {"model": model, "script": script or None}
        httpx.post(f"{self.url}/_script", json=body, verify=_VERIFY).raise_for_status()

    def until(self, condition: Callable[[dict[str, Any]], bool], timeout: float = 5.0) -> dict[str, Any]:
        """Wait until its statistics fulfil a condition, and return them."""
        deadline = time.monotonic() + timeout
        while not condition(stats := self.stats()):
            assert time.monotonic() < deadline, stats
            time.sleep(0.02)
        return stats


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
        self.words = {_SECRET, _KEY, "You said"}
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
            self.errors.append(response.text)

    def check(self, servers: "list[Server]") -> None:
        """Look for them in everything that the servers wrote, and in every refusal."""
        for server in servers:
            said = server.output()
            assert not [word for word in self.words | self.sessions if word in said], server.log
        for error in self.errors:
            # A refusal may name the session that keeps its user's chat busy.
            assert not [word for word in self.words if word in error], error
        self.errors = []


class Client:
    """A user's client of one server."""

    def __init__(self, url: str, user: str = "demo-pro", secrets: Secrets | None = None) -> None:
        self.secrets = secrets or Secrets()
        hooks = {"response": [self.secrets.listen]}
        self.http = httpx.AsyncClient(base_url=f"{url}/api", timeout=30, event_hooks=hooks, verify=_VERIFY)
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
            async for chunk in response.aiter_raw():
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

    async def ask(self, prompt: str, model: str = "fake", **fields: Any) -> tuple[dict[str, Any], Transcript]:
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


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message of the history."""
    return "".join(part["text"] for part in message["parts"])


async def eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
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


def add_model(database_url: str, model: str, name: str = "", provider: str = "openai") -> None:
    """Put a model of the fake provider into the catalogue, for every plan."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into models (id, provider, name, title, max_output_tokens, context_characters)"
            " values (%s, %s, %s, %s, 1000, 20000) on conflict do nothing",
            [model, provider, name or model, model],
        )
        connection.execute("insert into plan_models select id, %s from plans on conflict do nothing", [model])


async def run_purge(
    database_url: str, valkey_url: str, *, batch: int = 100, days: int = 0, grace: float = 0.0
) -> Purged:
    """Run the purge once on these stores."""
    store = PostgresStore(Pool(database_url, size=1, timeout=5), owner="purge", session_seconds=600)
    log = ValkeyLog(valkey_url, prefix="parley", timeout=1, lease_seconds=5, cache_seconds=60)
    try:
        return await purge(store, log, batch=batch, retention_days=days, grace_seconds=grace)
    finally:
        await log.close()
        await store.close()


class World:
    """Stores, a fake provider, and as many servers as a test asks for."""

    def __init__(self, folder: Path, database_url: str, valkey_url: str, fake: Fake) -> None:
        self.folder = folder
        self.database_url = database_url
        self.valkey_url = valkey_url
        self.fake = fake
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.secrets = Secrets()
        self._common: dict[tuple[object, ...], Server] = {}
        add_model(database_url, "fake")
        self.limit()

    def limit(self, **limits: int) -> None:
        """Give every plan these limits and no other; tests ask more in a minute than people do."""
        names = ("requests_per_minute", "concurrent_streams", "tokens_per_day")
        changes = ", ".join(f"{name} = %s" for name in names)
        self.sql(f"update plans set {changes}", *(limits.get(name) for name in names))

    def fresh_server(self, **settings: str) -> Server:
        """Start another server, in an interpreter of its own."""
        return self._serve(FreshServer, settings)

    def server(self, **settings: str) -> Server:
        """Start another server."""
        return self._serve(Server, settings)

    def _serve(self, kind: type[Server], settings: dict[str, str]) -> Server:
        defaults = {
            "DATABASE_URL": self.database_url,
            "VALKEY_URL": self.valkey_url,
            "OPENAI_BASE_URL": f"{self.fake.url}/v1",
            "OPENAI_API_KEY": _KEY,
            "ANTHROPIC_BASE_URL": self.fake.url,
            "ANTHROPIC_API_KEY": _KEY,
            "PROVIDER_BACKOFF_SECONDS": "0.05",
        }
        server = kind(self.folder, **(defaults | settings))
        self.servers.append(server)
        return server

    def common_server(self, number: int = 0, **settings: str) -> Server:
        """Return a server that others use too, who name the same number and settings."""
        name = (number, *sorted(settings.items()))
        if name not in self._common:
            self._common[name] = self.server(**settings)
        return self._common[name]

    def client(self, server: Server, user: str = "demo-pro") -> Client:
        """Return a client of a server."""
        client = Client(server.url, user, self.secrets)
        self.clients.append(client)
        return client

    def model(self, model: str, provider: str = "openai", **script: Any) -> str:
        """Add a model whose replies are scripted; return its id."""
        add_model(self.database_url, model, provider=provider)
        if script:
            self.fake.script(model, **script)
        return model

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        """Run a statement in the database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    async def purge(self, *, batch: int = 100, days: int = 0, grace: float = 0.0) -> Purged:
        """Run the purge, as a process of its own would."""
        return await run_purge(self.database_url, self.valkey_url, batch=batch, days=days, grace=grace)

    async def leave(self) -> None:
        """Close every client, and every server that is not common."""
        clients, self.clients = self.clients, []
        for client in clients:
            await client.close()
        common = list(self._common.values())
        leaving = [server for server in self.servers if server not in common]
        for server in leaving:
            server.close()
        self.servers = common
        self.secrets.check(leaving)

    async def close(self) -> None:
        """End everything but the stores."""
        self._common = {}
        await self.leave()


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """Return a fake provider, shared by a worker's tests."""
    provider = Fake(tmp_path_factory.mktemp("fake"))
    yield provider
    provider.close()


@pytest.fixture
async def world(tmp_path: Path, demo_database_url: str, valkey_url: str, fake: Fake) -> AsyncIterator[World]:
    """Return an empty world."""
    made = World(tmp_path, demo_database_url, valkey_url, fake)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def _module_world(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_valkey_url: str, fake: Fake
) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("module"), module_database_url, module_valkey_url, fake)
    yield made
    for server in made.servers:
        server.close()
    made.secrets.check(made.servers)


@pytest.fixture
async def shared(_module_world: World) -> AsyncIterator[World]:
    """Return the world that a module's tests share: they tell themselves apart by models and prompts."""
    yield _module_world
    await _module_world.leave()
