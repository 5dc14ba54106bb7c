"""What happens to readers and writers: rows 1 to 8 and 11 of the list of faults."""

import asyncio
import json
import time
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Refused, Transcript, eventually, text_of
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
    client, other = (world.client(world.server(DEADLINE_MARGIN_SECONDS="25")) for _ in range(2))
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
    writer, reader = world.client(world.server()), world.client(world.server(DEADLINE_MARGIN_SECONDS="1"))
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
