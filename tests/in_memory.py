"""Parley in memory for the unit tests: a scripted model, and processes that share a store and a log."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

from parley.domain.conversation import NewSession, Reply, Started
from parley.domain.errors import LogUnavailable, ProviderFault, StoreUnavailable
from parley.domain.events import Delta, Finish, FinishReason, ModelEvent, Usage
from parley.domain.ids import SessionIds, new_id
from parley.domain.ports import ChatModel, Log, ModelRequest, Store
from parley.domain.titles import title_of
from parley.memory.log import MemoryLog
from parley.streaming.generation_keys import GenerationKeys
from parley.streaming.model_call import CallLimits
from parley.streaming.session_run import RunResult, SessionRun
from parley.streaming.session_runner import Policy, SessionRunner
from parley.usecases.cached_replies import CachedReplies
from tests.conformance.backends import MemoryStage

STOP = Finish(FinishReason.STOP, "stop", Usage(3, 4))
SESSION_IDS = SessionIds("secret")
Step = ModelEvent | Exception | float | asyncio.Event


class ScriptedModel:
    """Says its script each time it is asked: events, pauses in seconds, gates, and an error at last."""

    def __init__(self, *script: Step) -> None:
        self.script: tuple[Step, ...] = script or (Delta("Hello, "), Delta("world!"), STOP)
        self.requests: list[ModelRequest] = []
        self.talking = 0

    async def stream(self, question: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.requests.append(question)
        self.talking += 1
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.talking -= 1

    async def close(self) -> None:
        return

    def get(self, provider: str) -> ChatModel:
        """Be all the models, too."""
        if provider != "maker":
            raise ProviderFault("model_not_configured", "There is no such provider.")
        return self

    def version(self, provider: str) -> str:
        """Return what this is, if it is the provider's."""
        return "scripted/1" if provider == "maker" else ""

    def has(self, provider: str) -> bool:
        """Say whether this is the provider's model."""
        return provider == "maker"


class Outage:
    """Stands before a port, counts the calls, and raises what it would raise if it were away."""

    def __init__(self, port: object, error: Callable[[], Exception]) -> None:
        self._port = port
        self._usual = self._error = error
        self.away: set[str] = set()
        self.calls: Counter[str] = Counter()

    def turn_off(self, *names: str, error: Callable[[], Exception] | None = None) -> None:
        """Have these methods fail, all of them where none is named, with another error where one is given."""
        self.away = set(names) or {"*"}
        self._error = error or self._usual

    def turn_on(self) -> None:
        """Have everything work."""
        self.away = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if self.away & {"*", name}:
                raise self._error()
            return await method(*arguments, **named)

        return call


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LIMITS = CallLimits(
    first_token=2, gap=2, total=5, attempts=3, backoff=0.01, flush=0.005, lease=0.3, characters=10_000
)


class World:
    """What several processes share."""

    def __init__(self) -> None:
        self.stage = MemoryStage()
        self.log = MemoryLog(lease_seconds=0.3, cache_seconds=60)
        self.processes: list[Process] = []

    async def open(self) -> "World":
        await self.stage.add_user("ada", "pro")
        await self.stage.add_user("bob", "pro")
        return self

    def process(self, model: ScriptedModel | None = None, **policy: Any) -> "Process":
        process = Process(self, f"process {len(self.processes)}", model or ScriptedModel(), **policy)
        self.processes.append(process)
        return process

    async def close(self) -> None:
        for process in self.processes:
            process.store_switch.turn_on()
            await process.runner.close(0.2)


class Process:
    """One process; `model` is its own, the store and the log are shared and may be away for it."""

    def __init__(self, world: World, name: str, model: ScriptedModel, **policy: Any) -> None:
        self.model = model
        self.store_switch = Outage(world.stage.store(name), StoreUnavailable)
        self.log_switch = Outage(world.log, LogUnavailable)
        self.store = cast("Store", self.store_switch)
        self.log = cast("Log", self.log_switch)
        share = policy.pop("share_context_free", True)
        self.keys = GenerationKeys(model, b"secret", share_context_free=share)
        self.cached_replies = CachedReplies(self.log, self.keys)
        defaults: dict[str, Any] = {"limits": LIMITS, "session_lease": 0.6, "renew_every": 0.2, "readers": 8}
        self.runner = SessionRunner(self.store, self.log, model, self.keys, Policy(**(defaults | policy)))

    async def start(self, prompt: str | None = "Why?", user: str = "ada", **fields: Any) -> Started:
        """Open a session."""
        new_session: dict[str, Any] = {
            "user_id": user, "prompt": prompt, "model_id": "small", "chat_id": None, "regenerate": False,
            "idempotency_key": None, "request_hash": str(prompt), "title": title_of(prompt or ""),
            "new_session_id": SESSION_IDS.new(), "new_chat_id": new_id(), "new_message_id": new_id(),
            "new_reply_id": new_id(),
        }  # fmt: skip
        return await self.store.start(NewSession(**(new_session | fields)))

    async def read(self, session_id: str, deadline: float | None = None) -> SessionRun:
        """Open a session's run, as its reader does."""
        return self.runner.open(await self.store.session(session_id), deadline)

    async def ask(self, prompt: str = "Why?", user: str = "ada", **fields: Any) -> SessionRun:
        """Start and read."""
        return await self.read((await self.start(prompt, user, **fields)).session_id)

    def crash(self) -> None:
        """Do nothing more, and say goodbye to nobody."""
        self.store_switch.turn_off()
        self.log_switch.turn_off()
        for task in (*self.runner._tasks, self.runner._lease_keeper._renewing):
            if task is not None:
                task.cancel()

    async def stored(self, run: SessionRun) -> Reply:
        """Return the reply that the store has."""
        _, reply = await self.store.reply(run.session.id)
        assert reply is not None
        return reply


async def answer(run: SessionRun) -> RunResult:
    """Wait for a run's end."""
    await until(lambda: run.result is not None)
    assert run.result is not None
    return run.result


async def shown(run: SessionRun, length: int) -> str:
    """Wait until a run shows so much text; return it."""
    await until(lambda: run.generation is not None and run.generation.buffer.length >= length)
    assert run.generation is not None
    return run.generation.buffer.text()


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.002)
