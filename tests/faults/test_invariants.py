"""Random use and random faults, with the invariants of the design checked after every step.

`PARLEY_SOAK_SECONDS` makes it run for so long; without, it is a short run.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.test_maintenance import _purge
from tests.harness import Client, Fake, Reading, Refused, Server, World, eventually, text_of

_LEASES = {
    "LEASE_SECONDS": "0.8", "SESSION_LEASE_SECONDS": "2", "PULSE_SECONDS": "0.5", "DATABASE_TIMEOUT": "2",
}  # fmt: skip
_USERS = ("demo-pro", "demo-free")
_SKEW = "import time\n_time = time.time\ntime.time = lambda: _time() + {}\n"


@dataclass
class Session:
    """A session as its user knows it."""

    started: dict[str, Any]
    user: str
    prompt: str
    readings: list[Reading] = field(default_factory=lambda: [Reading(), Reading()])
    stopped: bool = False


class Universe:
    """Two servers on shared stores; every operation is one a user, an operator or fate might do."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.model = world.model(f"chaos-{number}", delay=0.02, numbered=True)
        self.servers: list[Server] = []
        self.sessions: list[Session] = []
        self.faults = 0
        self.log: list[str] = []
        # A tab has one connection at a time.
        self.reading: set[int] = set()

    def client(self, which: int, user: str) -> Client:
        """Return a client of one of the servers."""
        return self.world.client(self.servers[which], user)

    async def begin(self, servers: list[Server]) -> None:
        """Take the servers."""
        self.servers = servers

    # -- what users do ---------------------------------------------------------------------------

    async def start(self, which: int, question: int, user: int) -> None:
        prompt = f"universe {self.number} question {question} " + "word " * (5 + question * 7)
        with contextlib.suppress(httpx.HTTPError):
            started = await self.client(which, _USERS[user]).start(prompt, self.model)
            self.sessions.append(Session(started, _USERS[user], prompt))

    async def read(self, which: int, session: int, tab: int, characters: int) -> None:
        if not self.sessions:
            return
        one = self.sessions[session % len(self.sessions)]
        reading = one.readings[tab]
        if reading.end is None:
            await self._read(self.client(which, one.user), one, reading, len(reading.text) + characters)

    async def _read(self, client: Client, one: Session, reading: Reading, upto: int | None) -> None:
        if id(reading) in self.reading:
            return
        self.reading.add(id(reading))
        try:
            async with asyncio.timeout(4):
                await client.read(one.started["sessionId"], reading, upto=upto)
        except (TimeoutError, httpx.HTTPError):
            pass
        except Refused as refused:
            if refused.status != 503:
                raise
        finally:
            self.reading.discard(id(reading))

    async def junk(self, which: int, session: int) -> None:
        if not self.sessions:
            return
        one = self.sessions[session % len(self.sessions)]
        reading = Reading()
        reading.cursor = random.choice(["7-7", "x", "99999999999999-5"])
        await self._read(self.client(which, one.user), one, reading, 20)
        assert not reading.text or "reset" in reading.types()

    async def stop(self, which: int, session: int) -> None:
        if not self.sessions:
            return
        one = self.sessions[session % len(self.sessions)]
        try:
            await self.client(which, one.user).stop(one.started["sessionId"])
            one.stopped = True
        except httpx.HTTPError:
            pass
        except Refused as refused:
            if refused.status != 503:
                raise

    # -- what fate does --------------------------------------------------------------------------

    async def kill(self, which: int) -> None:
        self.faults += 1
        self.servers[which].kill()
        self.servers[which] = await asyncio.to_thread(_serve, self.world)

    async def freeze(self, which: int, seconds: float) -> None:
        self.faults += 1
        server = self.servers[which]
        server.freeze()
        await asyncio.sleep(seconds)
        server.thaw()

    async def wipe(self) -> None:
        self.faults += 1
        with redis.Redis.from_url(self.world.valkey_url) as valkey:
            valkey.flushdb()

    async def cut(self) -> None:
        with psycopg.connect(self.world.database_url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'parley'"
            )

    async def purge(self) -> None:
        await _purge(self.world, grace=5)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # -- what must hold --------------------------------------------------------------------------

    async def check(self) -> None:
        """Check what can be checked at any time."""
        for one in self.sessions:
            [[state, status, parts]] = self.world.sql(
                "select s.state, m.status, m.parts from sessions s join messages m on m.id = s.reply_id"
                " where s.id = %s",
                one.started["sessionId"],
            )
            assert (state == "ended") == (status != "pending"), (state, status)
            text = "".join(part["text"] for part in parts)
            for reading in one.readings:
                assert len([kind for kind in reading.types() if kind in ("done", "error")]) <= 1
                if reading.end is not None and reading.end["saved"]:
                    assert state == "ended"
                    assert reading.text == text, self.log
                self._own_words(one, reading.text)
            self._own_words(one, text)

    def _own_words(self, one: Session, text: str) -> None:
        """Check that a text is of one call of the provider, and of this question."""
        words = text.split("/")
        calls = {word.split(" ")[0] for word in words[1:-1]} - {""}
        assert len(calls) <= 1, (text, self.log)
        plain = "/".join(words[:1]) + "".join(
            word.partition(" ")[1] + word.partition(" ")[2] for word in words[1:]
        )
        said = f"You said: {one.prompt}"
        assert said.startswith(plain.rstrip("0123456789")), (said, plain, self.log)

    async def finish(self) -> None:
        """Let everything come to its end, and compare."""
        for one in self.sessions:
            for reading in one.readings:
                for attempt in range(12):
                    if reading.end is not None or reading.status == 204:
                        break
                    await self._read(self.client(attempt % 2, one.user), one, reading, None)
                assert reading.end is not None or reading.status == 204, (self.log, reading.events[-3:])
            client = self.client(0, one.user)

            async def ended(client: Client = client, one: Session = one) -> Any:
                reply = await client.reply(one.started)
                return reply if reply["status"] != "pending" else None

            reply = await eventually(ended, 15)
            for reading in one.readings:
                assert reading.text == text_of(reply), self.log
            if reply["status"] == "complete":
                assert text_of(reply).split("/")[0] == "You"
            else:
                assert one.stopped or self.faults, (reply["status"], self.log)
        await self.check()
        calls = self.world.fake.calls(self.model)
        questions = {(one.prompt) for one in self.sessions}
        assert calls <= len(questions) + self.faults * max(1, len(self.sessions)), self.log
        if not self.faults and not any(one.stopped for one in self.sessions):
            assert calls == len(questions), self.log


def _serve(world: World) -> Server:
    folder = world.folder / f"skew-{time.monotonic_ns()}"
    folder.mkdir()
    # Each process has a clock of its own.
    (folder / "sitecustomize.py").write_text(_SKEW.format(random.choice([-7200, -30, 0, 30, 7200])))
    path = os.pathsep.join([str(folder), "layers/common", "."])
    return world.server(PYTHONPATH=path, **_LEASES)


_which, _session, _tab = st.integers(0, 1), st.integers(0, 5), st.integers(0, 1)
_use = st.one_of(
    st.tuples(st.just("start"), _which, st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("start"), _which, st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("read"), _which, _session, _tab, st.integers(1, 80)),
    st.tuples(st.just("read"), _which, _session, _tab, st.integers(1, 80)),
    st.tuples(st.just("read"), _which, _session, _tab, st.integers(1, 80)),
    st.tuples(st.just("junk"), _which, _session),
    st.tuples(st.just("stop"), _which, _session),
    st.tuples(st.just("pause"), st.floats(0, 0.3)),
)
_fate = st.one_of(
    st.tuples(st.just("kill"), _which),
    st.tuples(st.just("freeze"), _which, st.floats(0.1, 1.5)),
    st.tuples(st.just("wipe")),
    st.tuples(st.just("cut")),
    st.tuples(st.just("purge")),
)
_steps = st.lists(st.one_of(_use, _use, _use, _fate), min_size=6, max_size=16)


@pytest.fixture
async def universes(
    tmp_path: Path, demo_database_url: str, valkey_url: str, fake: Fake
) -> AsyncIterator[World]:
    """A world whose servers last for all examples."""
    world = World(tmp_path, demo_database_url, valkey_url, fake)
    yield world
    await world.close()


async def _live(world: World, servers: list[Server], number: int, steps: list[tuple[Any, ...]]) -> None:
    universe = Universe(world, number)
    await universe.begin(servers)
    running: set[asyncio.Task[None]] = set()
    for name, *arguments in steps:
        universe.log.append(f"{name}{tuple(arguments)}")
        # Faults strike while users read.
        task = asyncio.ensure_future(getattr(universe, name)(*arguments))
        if name == "read":
            running.add(task)
            await asyncio.sleep(0.05)
        else:
            await task
        if name == "read" and len(running) > 1:
            await asyncio.gather(*running)
            running.clear()
        if not running:
            await universe.check()
    await asyncio.gather(*running)
    await universe.check()
    await universe.finish()


async def test_whatever_happens_the_invariants_hold(universes: World) -> None:
    seconds = float(os.environ.get("PARLEY_SOAK_SECONDS", "0"))
    loop = asyncio.get_running_loop()
    servers = [_serve(universes), _serve(universes)]
    deadline = time.monotonic() + seconds
    numbers = iter(range(10**9))

    def example(steps: list[tuple[Any, ...]]) -> None:
        future = asyncio.run_coroutine_threadsafe(_live(universes, servers, next(numbers), steps), loop)
        future.result(120)

    @settings(
        max_examples=6 if not seconds else 10,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_steps)
    def explore(steps: list[tuple[Any, ...]]) -> None:
        example(steps)

    while True:
        await asyncio.to_thread(explore)
        if time.monotonic() >= deadline:
            return
