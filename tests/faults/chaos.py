"""A running system that is used and broken at random, and the invariants that must hold in it."""

import asyncio
import contextlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from tests.client import Client, Refused, Transcript, eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.processes import Server
from tests.world import World

_SETTINGS = {
    "LEASE_SECONDS": "0.8", "SESSION_LEASE_SECONDS": "2", "PULSE_SECONDS": "0.5", "DATABASE_TIMEOUT": "2",
}  # fmt: skip
_USERS = ("demo-pro", "demo-free")
# Each process has a clock of its own, which is set anew while it runs.
_CLOCK = """
import pathlib, time
_time, _offset = time.time, pathlib.Path(__file__).with_name("offset")
time.time = lambda: _time() + float(_offset.read_text() or 0)
"""
OFFSETS = (-7200, -30, 0, 30, 7200)


@dataclass
class Machine:
    """A server and its clock."""

    server: Server
    clock: Path

    def step(self, seconds: float) -> None:
        """Set its clock so far from the real time."""
        # In one step, as a reader may be at it.
        draft = self.clock.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self.clock)


@dataclass
class Session:
    """A session as its user knows it."""

    started: dict[str, Any]
    user: str
    prompt: str
    readings: list[Transcript] = field(default_factory=lambda: [Transcript(), Transcript()])
    stopped: bool = False
    ended: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Sent:
    """A start as it was sent, whether its answer arrived or not."""

    key: str
    user: str
    prompt: str
    fields: dict[str, Any]


class Ways:
    """The ways to the stores, on an event loop of their own: what blocks the test's must not stall them."""

    def __init__(self, database_url: str, valkey_url: str) -> None:
        self.database = FaultProxy(database_url)
        self.valkey = FaultProxy(valkey_url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def do(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something to the ways."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def __aenter__(self) -> "Ways":
        for proxy in (self.database, self.valkey):
            await self.do(proxy.listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        for proxy in (self.database, self.valkey):
            await self.do(proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


class Hall:
    """What lasts from chaos to chaos: the stores, the ways to them, and the machines."""

    def __init__(self, world: World, ways: Ways) -> None:
        self.world = world
        self.ways = ways
        self.machines = [self._machine() for _ in range(2)]
        self.database = psycopg.connect(world.database_url, autocommit=True)

    def _machine(self) -> Machine:
        folder = self.world.folder / f"machine-{time.monotonic_ns()}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_CLOCK)
        clock = folder / "offset"
        clock.write_text(str(random.choice(OFFSETS)))
        path = os.pathsep.join([str(folder), "layers/common", "."])
        stores = {"DATABASE_URL": self.ways.database.url, "VALKEY_URL": self.ways.valkey.url}
        return Machine(self.world.server(PYTHONPATH=path, **stores, **_SETTINGS), clock)

    async def replace(self, which: int) -> None:
        """Kill a server and start another in its place."""
        self.machines[which].server.kill()
        self.machines[which] = await asyncio.to_thread(self._machine)

    def without_log(self) -> int:
        """Count how often a server found the log away."""
        return sum(server.output().count('"log_unavailable"') for server in self.world.servers)


async def _away(proxy: FaultProxy, how: str, seconds: float) -> None:
    match how:
        case "refused":
            await proxy.refuse()
            proxy.reset()
        case "silent":
            proxy.stall()
        case _:
            proxy.half_open()
    await asyncio.sleep(seconds)
    await proxy.heal()


class Chaos:
    """A model, its users and their sessions; every operation is one of a user, an operator or fate."""

    def __init__(self, hall: Hall, number: int) -> None:
        self.hall = hall
        self.world = hall.world
        self.number = number
        self.model = self.world.model(f"chaos-{number}", delay=0.02, numbered=True)
        self.sessions: list[Session] = []
        self.sent: list[Sent] = []
        # What may cost another call to the provider, and what may only cost time.
        self.deaths = 0
        self.faults = 0
        self.log: list[str] = []
        self._without_log = hall.without_log()
        # A tab has one connection at a time.
        self._reading: set[int] = set()
        self._lasting: set[asyncio.Task[None]] = set()

    def _client(self, which: int, user: str) -> Client:
        return self.world.client(self.hall.machines[which].server, user)

    def _session(self, number: int) -> Session | None:
        return self.sessions[number % len(self.sessions)] if self.sessions else None

    async def live(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Do one thing, and check what must hold. Reads and faults last while the next things are done."""
        self.log.append(f"{name}{arguments}")
        task = asyncio.ensure_future(getattr(self, name)(*arguments))
        if name in ("read", "freeze", "dark", "mute"):
            self._lasting.add(task)
            await asyncio.sleep(0.05)
        else:
            await task
        if len(self._lasting) > 3:
            await self.settle()
        self.check()

    async def settle(self) -> None:
        """Wait for what lasts."""
        lasting, self._lasting = self._lasting, set()
        await asyncio.gather(*lasting)

    # -- what users do ---------------------------------------------------------------------------

    async def start(self, which: int, question: int, user: int) -> None:
        prompt = f"chaos {self.number} question {question} " + "word " * (5 + question * 7)
        await self._start(which, self._send(_USERS[user], prompt, {}))

    async def follow_up(self, which: int, session: int) -> None:
        one = self._session(session)
        if one is not None:
            prompt = f"chaos {self.number} then {len(self.sent)} " + "more " * 6
            await self._start(which, self._send(one.user, prompt, {"chatId": one.started["chatId"]}))

    async def again(self, which: int, sent: int) -> None:
        """Send a start once more, as after a lost answer."""
        if self.sent:
            await self._start(which, self.sent[sent % len(self.sent)])

    def _send(self, user: str, prompt: str, fields: dict[str, Any]) -> Sent:
        self.sent.append(Sent(f"{self.number}-{len(self.sent)}", user, prompt, fields))
        return self.sent[-1]

    async def _start(self, which: int, sent: Sent) -> None:
        client = self._client(which, sent.user)
        try:
            started = await client.start(sent.prompt, self.model, key=sent.key, **sent.fields)
        except httpx.HTTPError:
            return
        except Refused as refused:
            if refused.status == 503 or (refused.status == 409 and refused.error["code"] == "chat_busy"):
                return
            raise
        known = [one for one in self.sessions if one.started["sessionId"] == started["sessionId"]]
        assert all(one.started == started and one.prompt == sent.prompt for one in known), self.log
        if not known:
            self.sessions.append(Session(started, sent.user, sent.prompt))

    async def read(self, which: int, session: int, tab: int, characters: int) -> None:
        one = self._session(session)
        if one is not None and one.readings[tab].end is None:
            reading = one.readings[tab]
            await self._read(which, one, reading, len(reading.text) + characters)

    async def _read(self, which: int, one: Session, reading: Transcript, upto: int | None) -> None:
        if id(reading) in self._reading:
            return
        self._reading.add(id(reading))
        try:
            async with asyncio.timeout(4):
                await self._client(which, one.user).read(one.started["sessionId"], reading, upto=upto)
        except (TimeoutError, httpx.HTTPError):
            pass
        except Refused as refused:
            if refused.status != 503:
                raise
        finally:
            self._reading.discard(id(reading))

    async def resume(self, which: int, session: int, characters: int) -> None:
        """Resume as one who has so much of the text, wherever that cuts it."""
        one = self._session(session)
        if one is None or one.readings[0].cursor is None:
            return
        reading = Transcript()
        reading.text = one.readings[0].text[:characters]
        epoch = one.readings[0].cursor.partition("-")[0]
        reading.cursor = f"{epoch}-{len(reading.text)}"
        await self._read(which, one, reading, len(reading.text) + 20)
        self._own_words(one, reading.text)

    async def junk(self, which: int, session: int) -> None:
        one = self._session(session)
        if one is not None:
            reading = Transcript()
            reading.cursor = random.choice(["7-7", "x", "99999999999999-5"])
            await self._read(which, one, reading, 20)
            assert not reading.text or "reset" in reading.types(), self.log

    async def stop(self, which: int, session: int) -> None:
        one = self._session(session)
        if one is None:
            return
        # Whether its answer arrives or not.
        one.stopped = True
        await self._allowing_faults(self._client(which, one.user).stop(one.started["sessionId"]))

    async def peek(self, which: int, session: int) -> None:
        """Look at what is another's."""
        one = self._session(session)
        if one is None:
            return
        other = next(user for user in _USERS if user != one.user)
        client = self._client(which, other)
        for work in (client.history(one.started["chatId"]), client.stop(one.started["sessionId"])):
            try:
                await work
                raise AssertionError(("another's chat was shown", self.log))
            except httpx.HTTPError:
                pass
            except Refused as refused:
                if refused.status not in (404, 503):
                    raise

    async def _allowing_faults(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except httpx.HTTPError:
            pass
        except Refused as refused:
            if refused.status != 503:
                raise

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # -- what fate and operators do --------------------------------------------------------------

    async def kill(self, which: int) -> None:
        self.deaths += 1
        await self.hall.replace(which)

    async def freeze(self, which: int, seconds: float) -> None:
        self.deaths += 1
        server = self.hall.machines[which].server
        server.freeze()
        await asyncio.sleep(seconds)
        server.thaw()

    async def wipe(self) -> None:
        self.deaths += 1
        with redis.Redis.from_url(self.world.valkey_url) as valkey:
            valkey.flushdb()

    async def mute(self, how: str, seconds: float) -> None:
        """Take Valkey away for a while."""
        self.deaths += 1
        await self.hall.ways.do(_away(self.hall.ways.valkey, how, seconds))

    async def dark(self, how: str, seconds: float) -> None:
        """Take the database away for a while."""
        self.faults += 1
        await self.hall.ways.do(_away(self.hall.ways.database, how, seconds))

    async def cut(self) -> None:
        self.faults += 1
        with psycopg.connect(self.world.database_url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'parley'"
            )

    async def purge(self) -> None:
        await self.world.purge(grace=5)

    async def clock(self, which: int, seconds: float) -> None:
        self.hall.machines[which].step(seconds)

    # -- what must hold --------------------------------------------------------------------------

    def check(self) -> None:
        """Check what must hold at any time; not a coroutine, so that nothing happens in between."""
        rows = self.hall.database.execute(
            "select s.id, s.state, m.status, m.epoch, m.parts from sessions s"
            " join messages m on m.id = s.reply_id where s.id = any(%s)",
            [[one.started["sessionId"] for one in self.sessions]],
        ).fetchall()
        stored = {row[0]: row[1:] for row in rows}
        for one in self.sessions:
            state, status, epoch, parts = stored[one.started["sessionId"]]
            assert (state == "ended") == (status != "pending"), (state, status, self.log)
            text = "".join(part["text"] for part in parts)
            if state == "ended":
                # One terminal state, whatever is repeated.
                one.ended = one.ended or (status, epoch, text)
                assert one.ended == (status, epoch, text), self.log
            self._own_words(one, text)
            for reading in one.readings:
                self._own_words(one, reading.text)
                if reading.end is not None and reading.end["saved"]:
                    assert (state, reading.text) == ("ended", text), (reading.events[-3:], self.log)
                if "reset" in reading.types() and not one.stopped and not self.faults:
                    assert self._deaths(), self.log
        calls = self.world.fake.calls(self.model)
        questions = {one.prompt for one in self.sessions} | {sent.prompt for sent in self.sent}
        stops = sum(one.stopped for one in self.sessions)
        # A later epoch, and so another call, begins only where a writer died; what was stopped is asked anew.
        most = len(questions) + stops
        if calls > most:
            most += self._deaths() * max(1, len(self.sessions))
            assert calls <= most, (calls, most, self.log)

    def _deaths(self) -> int:
        """Count what may have cost a writer: a machine without time may find the log too slow by itself."""
        return self.deaths + self.hall.without_log() - self._without_log

    def _own_words(self, one: Session, text: str) -> None:
        """Check that a text is what one call of the provider said to this question, from its beginning."""
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
        await self.settle()
        self.check()
        await self.purge()
        for one in self.sessions:
            for reading in one.readings:
                await self._to_the_end(one, reading)
            client = self._client(0, one.user)

            async def ended(client: Client = client, one: Session = one) -> Any:
                with contextlib.suppress(Refused, httpx.HTTPError):
                    reply = await client.reply(one.started)
                    return reply if reply["status"] != "pending" else None

            reply = await eventually(ended, 60)
            for reading in one.readings:
                assert reading.text == text_of(reply), self.log
            if reply["status"] == "complete":
                assert text_of(reply).split("/")[0] == "You"
            else:
                assert one.stopped or self.faults or self._deaths(), (reply["status"], self.log)
        self.check()
        if len(self.sessions) == len(self.sent) and not any(one.stopped for one in self.sessions):
            questions = {one.prompt for one in self.sessions}
            assert self._deaths() or self.world.fake.calls(self.model) == len(questions), self.log

    async def _to_the_end(self, one: Session, reading: Transcript) -> None:
        """Read on as a client does: after an end that was not saved too, since the last word is not said."""
        for attempt in range(16):
            if reading.end is not None and not reading.end["saved"]:
                reading.events = [event for event in reading.events if event is not reading.end]
            if reading.end is not None or reading.status == 204:
                return
            await self._read(attempt % 2, one, reading, None)
        raise AssertionError((reading.status, reading.events[-3:], self.log))
