"""Somebody who can write to Valkey, or the release before, writes what no server of today has: fault 51."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from local.embedded import Addresses
from local.fake_provider import reply_to
from parley.domain.conversation import Reply
from parley.domain.events import Completed, FinishReason
from parley.domain.results import Attached, Saved
from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from tests.client import Transcript, eventually, text_of
from tests.faults.test_readers import LEASES
from tests.processes import Fake
from tests.world import World

LIE = "Words that no model said."
END = b'{"finish":"stop","providerReason":null,"usage":[1,2]}'
Rows = list[tuple[bytes, dict[bytes, bytes]]]


def _log_of(valkey: redis.Redis) -> tuple[bytes, Rows]:
    """Return the one log that has text and no end yet."""
    for name in cast("list[bytes]", valkey.keys("*:log")):
        rows = cast("Rows", valkey.xrange(name))
        if rows and b"t" in rows[-1][1]:
            return name, rows
    raise AssertionError("no log is being written")


def _change(valkey: redis.Redis) -> None:
    name, _ = _log_of(valkey)
    # In one step, so that the writer finds no gap.
    script = """
    local rows = redis.call('XRANGE', KEYS[1], '-', '+')
    redis.call('DEL', KEYS[1])
    for _, row in ipairs(rows) do
      if row[2][1] == 't' then row[2][2] = ARGV[1] end
      redis.call('XADD', KEYS[1], row[1], unpack(row[2]))
    end
    """
    valkey.eval(script, 1, name, LIE)


def _append(valkey: redis.Redis) -> None:
    name, rows = _log_of(valkey)
    epoch, _, place = rows[-1][0].decode().partition("-")
    entry: Any = {"t": LIE, "m": rows[-1][1][b"m"]}
    valkey.xadd(name, entry, id=f"{epoch}-{int(place) + len(LIE)}")


def _move(valkey: redis.Redis) -> None:
    """Put the text of another generation, whose writer was a server, where this one's next text belongs."""
    name, rows = _log_of(valkey)
    epoch, _, place = rows[-1][0].decode().partition("-")
    for other in cast("list[bytes]", valkey.keys("*:log")):
        for _, fields in cast("Rows", valkey.xrange(other)):
            if LIE.encode() in fields.get(b"t", b""):
                valkey.xadd(
                    name, cast("Any", fields), id=f"{epoch}-{int(place) + len(fields[b't'].decode())}"
                )
                return
    raise AssertionError("the other generation has no log")


def _end(valkey: redis.Redis) -> None:
    name, rows = _log_of(valkey)
    epoch, _, place = rows[-1][0].decode().partition("-")
    valkey.xadd(name, {"e": END, "m": rows[-1][1][b"m"]}, id=f"{epoch}-{int(place) + 1}")


HANDS: dict[str, Callable[[redis.Redis], None]] = {
    "changed": _change, "appended": _append, "moved": _move, "ended": _end,
}  # fmt: skip


def _lies(world: World) -> int:
    [[count]] = world.sql(
        "select count(*) from messages where role = 'assistant' and parts::text like %s", f"%{LIE}%"
    )
    return int(count)


def _said(*readings: Transcript) -> str:
    """Return all text that readers were ever shown, in the order of the frames."""
    return "".join(
        event["content"] for reading in readings for event in reading.events if event["type"] == "token"
    )


@pytest.mark.parametrize("how", HANDS)
async def test_51_nobody_is_shown_what_another_hand_wrote_into_a_log(world: World, how: str) -> None:
    model = world.model(f"hand-{how}", delay=0.05)
    here, there = world.server(**LEASES), world.server(**LEASES)
    one, two, another = world.client(here), world.client(there), world.client(there, "demo-free")
    if how == "moved":
        # A generation whose text the other hand has from the server, with a MAC that fits it there.
        await one.ask("What do you say?", world.model("hand-other", tokens=[LIE], count=1))
    asked = f"Is this {how} by another hand, and who is told so?"
    started = await one.start(asked, model)
    joined = await another.start(asked, model)
    first, second, third = Transcript(), Transcript(), Transcript()
    reads = [asyncio.create_task(one.read(started["sessionId"], first))]
    await eventually(lambda: len(first.text) > 3)
    with redis.Redis.from_url(world.valkey_url) as valkey:
        # Who reads already has what is changed, and who comes later would get it.
        if how == "changed":
            HANDS[how](valkey)
        reads.append(asyncio.create_task(two.read(started["sessionId"], second)))
        reads.append(asyncio.create_task(another.read(joined["sessionId"], third)))
        if how != "changed":
            await eventually(lambda: len(second.text) > 3 and len(third.text) > 3)
            HANDS[how](valkey)
    await asyncio.wait_for(asyncio.gather(*reads), 120)
    whole = reply_to(asked)
    for reading in (first, second, third):
        assert reading.text == whole
        assert reading.end is not None
        assert (reading.end["type"], reading.end["saved"]) == ("done", True)
    assert text_of(await one.reply(started)) == text_of(await another.reply(joined)) == whole
    assert LIE not in _said(first, second, third)
    assert _lies(world) == (1 if how == "moved" else 0)


async def test_51_a_cached_reply_of_another_hand_is_a_miss(world: World) -> None:
    model = world.model("hand-done")
    client = world.client(world.server())
    await client.ask("What do you say?", world.model("hand-done-other", tokens=[LIE], count=1))
    with redis.Redis.from_url(world.valkey_url) as valkey:
        [name] = cast("list[bytes]", valkey.keys("*:done"))
        theirs = cast("bytes", valkey.get(name))
        await client.ask("What is cached?", model)
        [mine] = [key for key in cast("list[bytes]", valkey.keys("*:done")) if key != name]
        forged = b'%b [1,"%b",%b]' % (theirs.partition(b" ")[0], LIE.encode(), END)
        for value in (theirs, forged, forged + theirs[-16:]):
            valkey.set(mine, value)
            # Found by the start, and by the stream: a question in a chat has its key only there.
            started, reading = await client.ask("What is cached?", model)
            assert reading.text == reply_to("What is cached?")
            assert text_of(await client.reply(started)) == reading.text
            valkey.set(mine, value)
            _, again = await client.ask("What is cached?", model, chatId=started["chatId"])
            assert again.text == reply_to("What is cached?")
            assert LIE not in _said(reading, again)
    assert _lies(world) == 1


async def test_51_a_reply_that_another_hand_parked_is_not_saved(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    model = world.model("hand-parked")
    client = world.client(world.server())
    started = await client.start("Who answers this?", model)
    value = (
        b'["provider","1 [1,\\"%b\\",{\\"finish\\":\\"stop\\",\\"providerReason\\":null,\\"usage\\":null}]"]'
    )
    with redis.Redis.from_url(world.valkey_url) as valkey:
        for forged in (value % LIE.encode(), value % LIE.encode() + bytes(16)):
            valkey.hset("parley:parked", started["sessionId"], forged)
            assert (await world.purge()).parked_saved == 0
            assert not valkey.exists("parley:parked")
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("parked_reply_dropped") == 2
    assert LIE not in caplog.text
    reading = await client.read(started["sessionId"])
    assert reading.text == reply_to("Who answers this?") == text_of(await client.reply(started))
    assert _lies(world) == 0


async def test_51_a_stop_and_the_purge_save_nothing_of_another_hand(world: World) -> None:
    model = world.model("hand-orphans", count=300, delay=0.05)
    server = world.server(**LEASES)
    client = world.client(server)
    started = await client.start("Who is left?", model)
    await client.read(started["sessionId"], upto=10)
    with redis.Redis.from_url(world.valkey_url) as valkey:
        _change(valkey)
        server.kill()

    async def orphaned() -> bool:
        return (await world.purge()).orphans_ended == 1

    await eventually(orphaned)
    reply = await world.client(world.server()).reply(started)
    assert (reply["status"], reply["errorCode"], text_of(reply)) == ("failed", "interrupted", "")


@pytest.mark.parametrize("epoch", [2**53 + 2, 2**63 + 2**20, 2**64 - 1])
@pytest.mark.parametrize("when", ["before", "while"])
async def test_51_an_epoch_that_no_store_takes_leaves_the_question_answered(
    world: World, epoch: int, when: str
) -> None:
    model = world.model(f"hand-epoch-{epoch}-{when}", delay=0.05)
    server = world.server(**LEASES)
    client = world.client(server)
    asked = f"Who counts to {epoch} {when} this?"
    _, first = await client.ask(asked, model)
    with redis.Redis.from_url(world.valkey_url) as valkey:
        if when == "before":
            # The same question again has the same log.
            for name in cast("list[bytes]", valkey.keys("*:done")):
                valkey.delete(name)
            [name] = cast("list[bytes]", valkey.keys("*:log"))
            valkey.xadd(name, {"o": "x"}, id=f"{epoch}-0")
            valkey.set(name.replace(b":log", b":lease"), "x")
            started, reading = await client.ask(asked, model)
        else:
            asked += " And again?"
            started = await client.start(asked, model)
            reading = Transcript()
            reads = asyncio.create_task(client.read(started["sessionId"], reading))
            await eventually(lambda: len(reading.text) > 3)
            name, _ = _log_of(valkey)
            valkey.xadd(name, {"o": "x"}, id=f"{epoch}-0")
            await asyncio.wait_for(reads, 60)
    assert reading.text == reply_to(asked) == text_of(await client.reply(started))
    assert reading.end is not None
    assert (reading.end["type"], reading.end["saved"]) == ("done", True)
    assert "run_broke" not in server.output()
    assert first.text


class OldWriter:
    """A process of the release before, which writes a session's reply: its entries have no MAC."""

    def __init__(self, world: World, stores: Addresses, session_id: str) -> None:
        self.session_id = session_id
        self.key = secrets.token_urlsafe(32)
        self.epoch = 0
        self.valkey = redis.Redis.from_url(stores.valkey_url)
        self.store = PostgresStore(
            Pool(world.database_url, size=1, timeout=30), owner="old", session_seconds=600
        )

    async def begin(self, text: str) -> None:
        seconds, micros = self.valkey.time()
        self.epoch = seconds * 1000 + micros // 1000
        name = f"parley:{{{self.key}}}"
        self.valkey.set(f"{name}:lease", "old:1", px=600_000)
        self.valkey.xadd(f"{name}:log", {"o": "old:1"}, id=f"{self.epoch}-0")
        self.valkey.xadd(f"{name}:log", {"t": text}, id=f"{self.epoch}-{len(text)}")
        attached = await self.store.attach(self.session_id, self.key, self.epoch, 600, writer=True, asks=True)
        assert attached == Attached()

    def end(self, text: str) -> None:
        name = f"parley:{{{self.key}}}"
        self.valkey.xadd(f"{name}:log", {"e": END}, id=f"{self.epoch}-{len(text) + 1}")
        self.valkey.set(f"{name}:done", b'%d [1,"%b",%b]' % (self.epoch, text.encode(), END))
        self.valkey.delete(f"{name}:lease")

    async def save(self, text: str) -> None:
        reply = Reply(self.epoch, text, Completed(FinishReason.STOP))
        assert await self.store.finish(self.session_id, reply, "provider") == Saved()

    def die(self) -> None:
        self.valkey.delete(f"parley:{{{self.key}}}:lease")

    def scripts(self) -> int:
        """Return how many scripts Valkey has run."""
        stats = self.valkey.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

    async def close(self) -> None:
        self.valkey.close()
        await self.store.close()


@pytest.fixture
async def alone(
    tmp_path: Path, demo_database_url: str, own_valkey: Addresses, fake: Fake
) -> AsyncIterator[tuple[World, Addresses]]:
    """A world whose Valkey counts the commands of this test alone."""
    world = World(tmp_path, demo_database_url, own_valkey.valkey_url, fake)
    yield world, own_valkey
    await world.close()


async def test_51_what_the_release_before_writes_is_read_when_it_is_saved(
    alone: tuple[World, Addresses],
) -> None:
    world, stores = alone
    model = world.model("hand-old")
    client = world.client(world.server(**LEASES))
    await client.ask("Load everything.", model)
    calls = world.fake.calls(model)
    started = await client.start("Who writes this?", model)
    old = OldWriter(world, stores, started["sessionId"])
    await old.begin("Hello")
    before = old.scripts()
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    # It asks Valkey and Postgres again and again, but ever more seldom.
    await eventually(lambda: old.scripts() - before >= 10)
    waited = asyncio.get_running_loop().time()
    counted = old.scripts()
    await eventually(lambda: old.scripts() - counted >= 4)
    # Two scripts a round, and a round takes a second by now: no clock could make it shorter.
    assert asyncio.get_running_loop().time() - waited > 0.5
    assert reading.text == ""
    old.end("Hello")
    # The reply is not saved yet, but Postgres knows a process that has the session.
    counted = old.scripts()
    await eventually(lambda: old.scripts() - counted >= 4)
    assert world.fake.calls(model) == calls
    await old.save("Hello")
    await asyncio.wait_for(reads, 60)
    assert reading.text == "Hello" == text_of(await client.reply(started))
    assert reading.end is not None
    assert (reading.end["type"], reading.end["saved"]) == ("done", True)
    assert world.fake.calls(model) == calls
    await old.close()


async def test_51_a_dead_process_of_the_release_before_is_replaced(alone: tuple[World, Addresses]) -> None:
    world, stores = alone
    model = world.model("hand-old-dead")
    client = world.client(world.server(**LEASES))
    started = await client.start("Who writes this anew?", model)
    old = OldWriter(world, stores, started["sessionId"])
    await old.begin("Hello")
    before = old.scripts()
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: old.scripts() - before >= 4)
    assert world.fake.calls(model) == 0
    old.die()
    await asyncio.wait_for(reads, 60)
    assert reading.text == reply_to("Who writes this anew?") == text_of(await client.reply(started))
    assert world.fake.calls(model) == 1
    await old.close()
