"""Stopping a reply, at every moment it can be stopped: rows 12 and 13 of the list of faults.

A reply that is stopped here would go on for 100 seconds or for ever: that it ends is what the stop did.
"""

import asyncio
import random
from typing import Any

import pytest

from tests.client import Client, Transcript, eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.faults.test_readers import LEASES
from tests.processes import Fake
from tests.world import World

WIRES = ("openai", "anthropic")


async def _closed(fake: Fake, before: int) -> None:
    """Wait until the provider saw one more client leave a reply."""

    async def left() -> bool:
        return bool((await asyncio.to_thread(fake.stats))["closedEarly"] == before + 1)

    await eventually(left)


async def _saved(client: Client, started: dict[str, Any], status: str) -> dict[str, Any]:
    async def saved() -> dict[str, Any] | None:
        reply = await client.reply(started)
        return reply if reply["status"] == status else None

    reply: dict[str, Any] = await eventually(saved)
    return reply


async def _reads(client: Client, started: dict[str, Any], *, text: bool = True) -> tuple[Transcript, Any]:
    """Begin to read, and return once there is text, or a first frame."""
    reading = Transcript()
    task = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: reading.text if text else reading.events)
    return reading, task


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in-another-process"])
@pytest.mark.parametrize("wire", WIRES)
async def test_12_stop_while_streaming(shared: World, wire: str, elsewhere: bool) -> None:
    model = shared.model(f"stop-{wire}-{elsewhere}", wire, count=5000, delay=0.02)
    client = shared.client(shared.common_server())
    other = shared.client(shared.common_server(1))
    started = await client.start("What is a stop?", model)
    reading, reads = await _reads(client, started)
    followed, follows = await _reads(other, started)
    closed = shared.fake.stats()["closedEarly"]
    await (other if elsewhere else client).stop(started["sessionId"])
    await asyncio.gather(reads, follows, _closed(shared.fake, closed))
    reply = await _saved(client, started, "stopped")
    for one in (reading, followed):
        assert one.end == {
            "type": "done", "finishReason": "stopped", "usage": None, "messageId": started["replyId"],
            "saved": True,
        }  # fmt: skip
        assert one.text == text_of(reply) != ""
    assert reply["finishReason"] == "stopped"
    # Nothing more of it is written, and it answers nobody else.
    late = await other.read(started["sessionId"])
    assert late.text == reading.text
    assert (await client.read(started["sessionId"], late)).status == 204
    again = await client.start("What is a stop?", model)
    _, reads = await _reads(client, again)
    assert shared.fake.calls(model) == 2
    await client.stop(again["sessionId"])
    await reads


async def test_12_stop_is_repeatable_from_everywhere_at_once(shared: World) -> None:
    model = shared.model("stop-burst", count=5000, delay=0.02)
    clients = [shared.client(shared.common_server(number % 2)) for number in range(6)]
    started = await clients[0].start("What are many stops?", model)
    reading, reads = await _reads(clients[0], started)
    await asyncio.gather(*(client.stop(started["sessionId"]) for client in clients))
    await reads
    before = await _saved(clients[0], started, "stopped")
    assert text_of(before) == reading.text
    await asyncio.gather(*(client.stop(started["sessionId"]) for client in clients))
    assert await clients[0].reply(started) == before


@pytest.mark.parametrize("wire", WIRES)
async def test_12_stop_before_the_first_token(shared: World, wire: str) -> None:
    model = shared.model(f"stop-silent-{wire}", wire, fault="silence")
    client = shared.client(shared.common_server())
    started = await client.start("What is silence?", model)
    reading, reads = await _reads(client, started, text=False)
    await eventually(lambda: shared.fake.calls(model) == 1)
    closed = shared.fake.stats()["closedEarly"]
    await client.stop(started["sessionId"])
    await asyncio.gather(reads, _closed(shared.fake, closed))
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"
    assert (await _saved(client, started, "stopped"))["parts"] == []


async def test_12_stop_from_another_process_while_the_model_is_silent(shared: World) -> None:
    """Nothing is flushed then, so the writer has to look by itself; several, since it looks now and then."""
    here, there = (shared.client(shared.common_server(number)) for number in range(2))
    models = [shared.model(f"stop-silent-{number}", fault="silence") for number in range(8)]
    stopped = []
    for model in models:
        started = await here.start("What is silence, elsewhere?", model)
        stopped.append((started, *(await _reads(here, started, text=False))))
    await eventually(lambda: all(shared.fake.calls(model) == 1 for model in models))
    closed = shared.fake.stats()["closedEarly"]
    await asyncio.gather(*(there.stop(started["sessionId"]) for started, _, _ in stopped))
    await asyncio.to_thread(shared.fake.until, lambda stats: stats["closedEarly"] == closed + len(models))
    await asyncio.gather(*(reads for _, _, reads in stopped))
    for started, reading, _ in stopped:
        assert reading.end is not None
        assert reading.end["finishReason"] == "stopped"
        assert (await here.reply(started))["status"] == "stopped"


async def test_12_what_comes_after_a_stop_is_not_shown(shared: World) -> None:
    client = shared.client(shared.common_server())
    model = shared.model("stop-flood", count=20_000, delay=0.001)

    async def stop_soon(number: int) -> None:
        started = await client.start(f"What is too much, {number}?", model)
        reading, reads = await _reads(client, started)
        await asyncio.sleep(random.uniform(0, 0.1))
        await client.stop(started["sessionId"])
        await reads
        assert reading.types()[-1] == "done"
        assert "reset" not in reading.types()
        assert reading.text == text_of(await _saved(client, started, "stopped"))

    for number in range(0, 20, 2):
        await asyncio.gather(stop_soon(number), stop_soon(number + 1))


async def test_12_stop_between_two_attempts(shared: World) -> None:
    model = shared.model("stop-retry", status=529, retry_after="40")
    client = shared.client(shared.common_server())
    started = await client.start("What is patience?", model)
    reading, reads = await _reads(client, started, text=False)
    await eventually(lambda: "status" in reading.types())
    await client.stop(started["sessionId"])
    await reads
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"
    assert shared.fake.calls(model) == 1
    await _saved(client, started, "stopped")


async def test_12_stop_before_anybody_reads(shared: World) -> None:
    model = shared.model("stop-unread", delay=0.01)
    client = shared.client(shared.common_server())
    started = await client.start("Who reads this?", model)
    await client.stop(started["sessionId"])
    reading = await client.read(started["sessionId"])
    assert reading.types() == ["start", "done"]
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"
    assert (await client.reply(started))["status"] == "stopped"
    assert shared.fake.calls(model) == 0
    _, after = await client.ask("And now?", model, chatId=started["chatId"])
    assert after.end is not None
    assert after.end["finishReason"] == "stop"


async def test_12_stop_after_the_reader_left(shared: World) -> None:
    model = shared.model("stop-left", count=5000, delay=0.02)
    client, other = (shared.client(shared.common_server(number)) for number in range(2))
    started = await client.start("Are you still there?", model)
    reading = await client.read(started["sessionId"], upto=5)
    # It goes on without the reader, who would else come back to nothing more.
    await other.read(started["sessionId"], upto=len(reading.text) + 5)
    closed = shared.fake.stats()["closedEarly"]
    await other.stop(started["sessionId"])
    await _closed(shared.fake, closed)
    reply = await _saved(client, started, "stopped")
    await client.read(started["sessionId"], reading)
    assert reading.text == text_of(reply)
    assert "reset" not in reading.types()
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"


async def test_12_stop_in_another_process_while_the_log_is_away(shared: World) -> None:
    model = shared.model("stop-logless", count=5000, delay=0.02)
    async with FaultProxy(shared.valkey_url) as proxy:
        here, there = (shared.client(shared.server(VALKEY_URL=proxy.url)) for _ in range(2))
        started = await here.start("Who needs a log?", model)
        reading, reads = await _reads(here, started)
        await proxy.refuse()
        proxy.reset()
        await asyncio.sleep(0.3)
        closed = shared.fake.stats()["closedEarly"]
        await there.stop(started["sessionId"])
        # The database is asked twice a second.
        await asyncio.gather(reads, _closed(shared.fake, closed))
        reply = await _saved(there, started, "stopped")
        assert text_of(reply) == reading.text != ""
        assert reading.end is not None
        assert reading.end["finishReason"] == "stopped"


async def test_12_stop_in_a_process_that_alone_cannot_reach_the_log(shared: World) -> None:
    """The writer learns of it from the database, and tells the log itself that nobody is left."""
    model = shared.model("stop-apart", count=5000, delay=0.02)
    async with FaultProxy(shared.valkey_url) as proxy:
        here = shared.client(shared.server(**LEASES))
        there = shared.client(shared.server(VALKEY_URL=proxy.url))
        started = await here.start("Who is apart?", model)
        reading, reads = await _reads(here, started)
        await proxy.refuse()
        proxy.reset()
        closed = shared.fake.stats()["closedEarly"]
        await there.stop(started["sessionId"])
        # The database is asked once a second here.
        await asyncio.gather(reads, _closed(shared.fake, closed))
        assert text_of(await _saved(here, started, "stopped")) == reading.text != ""
        assert shared.fake.calls(model) == 1


async def _stop(client: Client, started: dict[str, Any], pause: float) -> None:
    await asyncio.sleep(pause)
    await client.stop(started["sessionId"])


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in-another-process"])
async def test_13_stop_races_the_end(shared: World, elsewhere: bool) -> None:
    model = shared.model(f"race-{elsewhere}", tokens=[f"{number} " for number in range(30)], delay=0.01)
    here = shared.client(shared.common_server())
    there = shared.client(shared.common_server(1))
    _, warm = await here.ask("How long does it take?", model)
    whole = warm.text
    aim = len(whole) - 10
    seen: dict[str, int] = {"stop": 0, "stopped": 0}

    async def race(number: int) -> None:
        nonlocal aim
        started = await here.start(f"Who wins race {number}?", model)
        reading, follower = Transcript(), Transcript()
        follows = stops = None
        async for _ in here.events(started["sessionId"], reading):
            if follows is None and reading.text:
                follows = asyncio.create_task(there.read(started["sessionId"], follower))
            if stops is None and len(reading.text) >= aim:
                pause = random.uniform(0.0, 0.01)
                stops = asyncio.create_task(_stop(there if elsewhere else here, started, pause))
        assert stops is not None
        assert follows is not None
        await asyncio.gather(stops, follows)
        reply = await here.reply(started)
        assert reading.end is not None
        assert follower.end is not None
        reason = reply["finishReason"]
        assert reading.end["finishReason"] == follower.end["finishReason"] == reason
        assert (reason, reply["status"]) in (("stop", "complete"), ("stopped", "stopped"))
        assert reading.text == follower.text == text_of(reply)
        assert whole.startswith(reading.text)
        assert reason == "stopped" or reading.text == whole
        await here.stop(started["sessionId"])
        assert await there.reply(started) == reply
        [[state]] = shared.sql("select state from sessions where id = %s", started["sessionId"])
        assert state == "ended"
        seen[reason] += 1
        # Whoever won, aim the next stop nearer to the other's chance.
        aim = max(1, min(len(whole), aim + (-2 if reason == "stop" else 2)))

    for batch in range(30):
        await asyncio.gather(*(race(batch * 3 + number) for number in range(3)))
        if min(seen.values()) >= 5:
            return
    raise AssertionError(f"the race is always won by the same: {seen}")
