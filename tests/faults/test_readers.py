"""What happens to readers and writers: rows 1 to 8 and 11 of the list of faults."""

import asyncio
import json
import time
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Refused, Transcript, eventually, text_of
from tests.processes import IN_LAMBDA
from tests.world import World

# Short leases, so that a dead process is noticed within a test's patience.
LEASES = {"LEASE_SECONDS": "1", "SESSION_LEASE_SECONDS": "3", "PULSE_SECONDS": "1"}


async def test_01_resume_in_another_process_brings_only_the_suffix(world: World) -> None:
    model = world.model("row-1", delay=0.02)
    here, there = (world.client(world.server()) for _ in range(2))
    started = await here.start("Tell me of row one.", model)
    first = await here.read(started["sessionId"], upto=15)
    second = Transcript()
    second.cursor = first.cursor
    await there.read(started["sessionId"], second)
    assert "reset" not in second.types()
    assert first.text + second.text == text_of(await here.reply(started)) == reply_to("Tell me of row one.")
    assert world.fake.calls(model) == 1


async def test_02_the_reader_leaves_for_good_and_the_reply_is_saved(world: World) -> None:
    model = world.model("row-2", delay=0.03)
    client = world.client(world.server())
    started = await client.start("Tell me of row two.", model)
    await client.read(started["sessionId"], upto=5)

    async def saved() -> bool:
        return bool((await client.reply(started))["status"] == "complete")

    await eventually(saved)
    assert text_of(await client.reply(started)) == reply_to("Tell me of row two.")


async def test_03_reconnect_after_the_end(world: World) -> None:
    model = world.model("row-3", delay=0.01)
    client = world.client(world.server())
    started = await client.start("Tell me of row three.", model)
    reading = await client.read(started["sessionId"], upto=10)
    await eventually(lambda: _status(client, started, "complete"))
    await client.read(started["sessionId"], reading)
    assert reading.source == "history"
    assert reading.text == reply_to("Tell me of row three.")
    assert reading.end is not None
    assert reading.end["saved"] is True
    again = await client.read(started["sessionId"], reading)
    assert again.status == 204
    assert reading.text == reply_to("Tell me of row three.")


async def test_04_the_log_has_expired(world: World) -> None:
    model = world.model("row-4", delay=0.01)
    client = world.client(world.server())
    started = await client.start("Tell me of row four.", model)
    reading = await client.read(started["sessionId"], upto=10)
    await eventually(lambda: _status(client, started, "complete"))
    _flush(world)
    await client.read(started["sessionId"], reading)
    assert "reset" not in reading.types()
    assert reading.text == reply_to("Tell me of row four.")
    assert world.fake.calls(model) == 1


@pytest.mark.parametrize("ended", [False, True])
async def test_05_junk_foreign_or_future_cursors(world: World, ended: bool) -> None:
    model = world.model("row-5", delay=0.01 if ended else 0.05)
    client = world.client(world.server())
    started = await client.start("Tell me of row five.", model)
    first = await client.read(started["sessionId"], upto=5)
    if ended:
        await eventually(lambda: _status(client, started, "complete"))
    assert first.cursor is not None
    epoch = int(first.cursor.split("-")[0])
    cursors = ["junk", "1-", "-", "9" * 40, "1-42", f"{epoch}-99999999", f"{epoch + 1}-3", "0-0", "é"]
    if ended:
        cursors += ["%00", "1-2-3", " 1-2", f"{epoch}--1", "१-२"]
    for cursor in cursors:
        reading = Transcript()
        params = {"sessionId": started["sessionId"], "cursor": cursor}
        async with client.http.stream("GET", "/chat/stream", params=params) as response:
            assert response.status_code == 200
            body = (await response.aread()).decode()
        for block in body.split("\n\n"):
            if "data: " in block:
                reading.take(json.loads(block.partition("data: ")[2]), "")
        assert reading.types()[:2] == ["start", "reset"], cursor
        assert reading.text == reply_to("Tell me of row five."), cursor


async def test_06_two_tabs_in_two_processes_see_one_text(world: World) -> None:
    model = world.model("row-6", delay=0.03)
    servers = [world.server(), world.server()]
    clients = [world.client(server) for server in servers]
    started = await clients[0].start("Tell me of row six.", model)
    readings = await asyncio.gather(*(clients[number % 2].read(started["sessionId"]) for number in range(6)))
    assert {reading.text for reading in readings} == {reply_to("Tell me of row six.")}
    assert all(reading.end for reading in readings)
    assert world.fake.calls(model) == 1


async def test_07_a_killed_writer_is_replaced(world: World) -> None:
    model = world.model("row-7", delay=0.05)
    writer, other = world.server(**LEASES), world.server(**LEASES)
    started = await world.client(writer).start("Tell me of row seven.", model)
    doomed = Transcript()
    client = world.client(other)
    follower = Transcript()
    follows = None
    async for event in world.client(writer).events(started["sessionId"], doomed):
        if event["type"] == "token" and follows is None:
            follows = asyncio.create_task(client.read(started["sessionId"], follower))
        if len(follower.text) > 5:
            break
    writer.kill()
    assert follows is not None
    await asyncio.wait_for(follows, 60)
    assert "reset" in follower.types()
    assert follower.text == reply_to("Tell me of row seven.")
    # The other reader comes back with what it saw of the first epoch.
    await client.read(started["sessionId"], doomed)
    assert doomed.text == follower.text == text_of(await client.reply(started))
    assert world.fake.calls(model) == 2
    epochs = {event.split("-")[0] for event in (follower.cursor or "", doomed.cursor or "")}
    assert len(epochs) == 1


async def test_08_a_frozen_writer_that_thaws_writes_nothing(world: World) -> None:
    model = world.model("row-8", delay=0.05)
    writer, other = world.server(**LEASES), world.server(**LEASES)
    started = await world.client(writer).start("Tell me of row eight.", model)
    frozen = Transcript()
    reads = asyncio.create_task(world.client(writer).read(started["sessionId"], frozen))
    await eventually(lambda: len(frozen.text) > 5)
    writer.freeze()
    client = world.client(other)
    reading = await asyncio.wait_for(client.read(started["sessionId"]), 60)
    assert reading.text == reply_to("Tell me of row eight.")
    before = world.sql(
        "select epoch, parts, completed_at, status from messages where id = %s", started["replyId"]
    )
    log = _entries(world)
    writer.thaw()
    await asyncio.wait_for(reads, 60)
    await asyncio.sleep(1.5)
    after = world.sql(
        "select epoch, parts, completed_at, status from messages where id = %s", started["replyId"]
    )
    assert after == before
    assert _entries(world) == log
    assert frozen.text == reading.text
    assert frozen.end is not None


@pytest.mark.parametrize("logged", [True, False], ids=["log", "no-log"])
async def test_08_a_writer_that_thaws_beside_its_successor_writes_nothing(world: World, logged: bool) -> None:
    """Its epoch is over for Valkey, and without Valkey for Postgres, while the next one is under way."""
    settings = LEASES | ({} if logged else {"VALKEY_URL": "redis://127.0.0.1:1/0"})
    # Each call names itself in its words, so that two epochs cannot pass for one.
    model = world.model(f"row-8-{logged}", count=40, delay=0.08, numbered=True)
    writer, other = world.server(**settings), world.server(**settings)
    client = world.client(other)
    for one in (world.client(writer), client):
        await one.ask("Load.", world.model("load-row-8"), regenerate=True)
    started = await world.client(writer).start("Tell me of row eight, slowly.", model)
    frozen, reading = Transcript(), Transcript()
    reads = asyncio.create_task(world.client(writer).read(started["sessionId"], frozen))
    await eventually(lambda: len(frozen.text) > 20)
    writer.freeze()
    await asyncio.sleep(3.2)
    follows = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 5)
    # The frozen one is further, and would be done first.
    writer.thaw()
    await asyncio.gather(reads, follows)
    assert world.fake.calls(model) == 2
    reply = await client.reply(started)
    assert reply["status"] == "complete"
    assert reading.text == frozen.text == text_of(reply)
    assert "/2" in reading.text
    assert "/1" not in reading.text
    assert "reset" not in reading.types()
    assert "reset" in frozen.types()
    await asyncio.sleep(1.0)
    assert await client.reply(started) == reply


async def test_11_near_the_deadline_the_partial_is_saved_as_truncated(world: World) -> None:
    model = world.model("row-11", count=2000, delay=0.02)
    client, other = (world.client(world.server(**IN_LAMBDA, DEADLINE_MARGIN_SECONDS="25")) for _ in range(2))
    await client.ask("Load everything.", world.model("row-11-warm"))
    started = await client.start("Tell me of row eleven.", model)
    deadline = time.time() + 30
    context = json.dumps({"request_id": "r", "deadline": round(deadline * 1000)})
    client.http.headers["x-amzn-lambda-context"] = context
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: reading.text)
    followed = await other.read(started["sessionId"])
    await reads
    # Of the margin, nearly all is left.
    assert time.time() < deadline
    reply = await client.reply(started)
    assert reply["status"] == "truncated"
    for one in (reading, followed):
        assert one.end is not None
        assert one.end["finishReason"] == "truncated"
        assert one.text == text_of(reply) != ""
    assert world.fake.calls(model) == 1


async def test_11_a_deadline_may_be_a_setting_where_there_is_no_lambda(world: World) -> None:
    model = world.model("row-11-setting", count=2000, delay=0.02)
    client = world.client(world.server(DEADLINE_SECONDS="30", DEADLINE_MARGIN_SECONDS="25"))
    await client.ask("Load everything.", world.model("row-11-warm"))
    started, reading = await client.ask("Tell me of row eleven, by itself.", model)
    assert reading.end is not None
    assert reading.end["finishReason"] == "truncated"
    assert text_of(await client.reply(started)) == reading.text != ""


async def test_11_a_reader_of_another_processes_reply_is_let_go_before_its_end(world: World) -> None:
    model = world.model("row-11-b", count=80, delay=0.1)
    writer = world.client(world.server())
    reader = world.client(world.server(**IN_LAMBDA, DEADLINE_MARGIN_SECONDS="1"))
    started = await writer.start("Tell me of the other row eleven.", model)
    whole = Transcript()
    writes = asyncio.create_task(writer.read(started["sessionId"], whole))
    await eventually(lambda: whole.text)
    deadline = time.time() + 2
    reader.http.headers["x-amzn-lambda-context"] = json.dumps({"deadline": round(deadline * 1000)})
    reading = await reader.read(started["sessionId"])
    # While the reply goes on: it ends half the margin before the deadline.
    assert reading.end is None
    assert whole.end is None
    del reader.http.headers["x-amzn-lambda-context"]
    await reader.read(started["sessionId"], reading)
    await writes
    assert reading.text == whole.text == text_of(await writer.reply(started))


# Quick looks, so that an old reader elsewhere is let go within a test's patience.
READERS = {"PULSE_SECONDS": "0.2"}


async def test_26_of_twelve_readers_of_one_session_the_newest_eight_go_on(world: World) -> None:
    clients = [world.client(world.server(**READERS)) for _ in range(2)]
    crowd = await Crowd(world, "row-26").begin(clients[0])
    for number in range(12):
        await crowd.enter(clients[number % 2])
    await eventually(lambda: crowd.closed() == [True] * 4 + [False] * 8)
    # One that returns with its cursor gets in, and the oldest of the others makes room.
    returned = crowd.readings[0]
    assert returned.end is None
    await crowd.enter(clients[0], returned)
    await eventually(lambda: crowd.closed() == [True] * 5 + [False] * 8)
    text = await crowd.finish(clients[0])
    for reading in (returned, *crowd.readings[5:12]):
        assert reading.text == text
        assert reading.end is not None
    # Those who were let go have no end, and what they have is the beginning.
    for reading in crowd.readings[1:5]:
        assert reading.text
        assert text.startswith(reading.text)
        assert reading.end is None
    assert not any("reset" in reading.types() for reading in crowd.readings)
    assert world.fake.calls("row-26") == 1


async def test_26_without_valkey_each_process_counts_its_own_readers(world: World) -> None:
    settings = READERS | {"VALKEY_URL": "redis://127.0.0.1:1/0", "SESSION_READERS": "3"}
    clients = [world.client(world.server(**settings)) for _ in range(2)]
    crowd = await Crowd(world, "row-26-alone", logged=False).begin(clients[0])
    for number in range(10):
        await crowd.enter(clients[number % 2])
    await eventually(lambda: crowd.closed() == [True] * 4 + [False] * 6)
    text = await crowd.finish(clients[0])
    assert all(reading.text == text and reading.end for reading in crowd.readings[4:])
    assert all(text.startswith(reading.text) and not reading.end for reading in crowd.readings[:4])


async def test_26_nobody_is_let_go_because_valkey_lost_its_data(world: World) -> None:
    clients = [world.client(world.server(**READERS)) for _ in range(2)]
    crowd = await Crowd(world, "row-26-wiped").begin(clients[0])
    for number in range(8):
        await crowd.enter(clients[number % 2])
    for _ in range(2):
        _flush(world)
        await eventually(lambda: len(crowd.counted()) == 8)
    text = await crowd.finish(clients[0])
    assert all(reading.text == text and reading.end for reading in crowd.readings)


async def test_26_a_reader_that_left_takes_no_place(world: World) -> None:
    clients = [world.client(world.server(**READERS, SESSION_READERS="2")) for _ in range(2)]
    crowd = await Crowd(world, "row-26-left").begin(clients[0])
    staying = await crowd.enter(clients[0])
    for _ in range(4):
        await crowd.enter(clients[1])
        crowd.tasks[-1].cancel()
        await eventually(lambda: len(crowd.counted()) == 1)
    text = await crowd.finish(clients[0])
    assert staying.text == text
    assert staying.end is not None


async def test_26_on_lambda_a_follower_that_is_let_go_ends_its_invocation(world: World) -> None:
    servers = [world.server(**READERS, **IN_LAMBDA, SESSION_READERS="1") for _ in range(3)]
    clients = [world.client(server) for server in servers]
    crowd = await Crowd(world, "row-26-lambda").begin(clients[0])
    for client in clients:
        deadline = round((time.time() + 600) * 1000)
        client.http.headers["x-amzn-lambda-context"] = json.dumps({"deadline": deadline})
        await crowd.enter(client)
    # The second response is over while the reply still runs. The first one's process writes it and must stay,
    # so its reader reads on.
    await eventually(lambda: crowd.closed() == [False, True, False])
    returned = crowd.readings[1]
    assert returned.end is None
    assert await _status(clients[0], crowd.started, "pending")
    # The sandbox is free for the next one.
    await crowd.enter(clients[1], returned)
    await eventually(lambda: crowd.closed() == [False, True, True, False])
    text = await crowd.finish(clients[0])
    assert [reading.text == text for reading in crowd.readings[:2]] == [True, True]
    assert [bool(reading.end) for reading in crowd.readings[:3]] == [True, True, False]
    # A process says nothing of a run that it gave up.
    ends = [1, 1, 0]
    await eventually(lambda: [server.output().count('"reply_ended"') for server in servers] == ends)
    assert world.fake.calls("row-26-lambda") == 1


class Crowd:
    """Readers of one session in the order in which they come. The reply runs until it is stopped."""

    def __init__(self, world: World, model: str, *, logged: bool = True) -> None:
        self.world = world
        self.model = world.model(model, count=100_000, delay=0.05)
        self.logged = logged
        self.started: dict[str, Any] = {}
        self.readings: list[Transcript] = []
        self.tasks: list[asyncio.Task[Transcript]] = []

    async def begin(self, client: Client) -> "Crowd":
        """Open the session."""
        self.started = await client.start(f"Tell {self.model} slowly.", self.model)
        return self

    async def enter(self, client: Client, reading: Transcript | None = None) -> Transcript:
        """Have a reader come, and wait until it is counted and has text. Without a log it is let in."""
        reading = reading or Transcript()
        reading.status, shown, newest = 0, len(reading.text), max(self.counted(), default=0)
        self.readings.append(reading)
        self.tasks.append(asyncio.create_task(client.read(self.started["sessionId"], reading)))
        await eventually(lambda: reading.status == 200)
        if self.logged:
            await eventually(lambda: len(reading.text) > shown and max(self.counted(), default=0) > newest)
        return reading

    def counted(self) -> list[float]:
        """Return the arrivals of the readers that Valkey counts."""
        import redis

        if not self.logged:
            return []
        with redis.Redis.from_url(self.world.valkey_url) as valkey:
            name = f"parley:{{{self.started['sessionId']}}}:readers"
            members: Any = valkey.zrange(name, 0, -1, withscores=True)
            return [arrival for _, arrival in members]

    def closed(self) -> list[bool]:
        """Tell of each stream whether it is over."""
        return [task.done() for task in self.tasks]

    async def finish(self, client: Client) -> str:
        """Stop the reply, wait for every stream, and return the stored text."""
        await client.stop(self.started["sessionId"])
        await asyncio.wait(self.tasks, timeout=60)
        assert all(self.closed())
        await eventually(lambda: _status(client, self.started, "stopped"))
        return text_of(await client.reply(self.started))


async def _status(client: Client, started: dict[str, Any], status: str) -> bool:
    try:
        return bool((await client.reply(started))["status"] == status)
    except Refused:
        return False


def _flush(world: World) -> None:
    import redis

    with redis.Redis.from_url(world.valkey_url) as valkey:
        valkey.flushdb()


def _entries(world: World) -> list[Any]:
    import redis

    with redis.Redis.from_url(world.valkey_url) as valkey:
        return [
            (name, valkey.xrange(name))
            for name in sorted(valkey.keys("*:log"))
            if valkey.type(name) == b"stream"
        ]
