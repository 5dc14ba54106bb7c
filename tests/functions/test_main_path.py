"""The main job over real sockets: start, stream, history; cache, coalescing, stop, resume."""

import asyncio

from local.fake_provider import reply_to
from tests.client import Transcript, eventually, text_of
from tests.world import World


async def test_a_reply_arrives_token_by_token_and_is_kept(world: World) -> None:
    model = world.model("slow-1", delay=0.25)
    client = world.client(world.server())
    started = await client.start("What is AI?", model)
    under_way = []
    reading = Transcript()
    async for event in client.events(started["sessionId"], reading):
        if event["type"] == "token":
            under_way.append((await asyncio.to_thread(world.fake.stats))["active"])
    assert reading.types()[0] == "start"
    assert reading.source == "provider"
    assert reading.text == reply_to("What is AI?")
    assert reading.end == reading.events[-1]
    assert reading.end["finishReason"] == "stop"
    assert reading.end["saved"] is True
    assert len(under_way) > 3
    # The provider was still at it when the first one was here.
    assert under_way[0] == 1
    page = await client.history(started["chatId"])
    assert [message["role"] for message in page["messages"]] == ["user", "assistant"]
    assert text_of(page["messages"][1]) == reading.text
    assert page["messages"][1]["status"] == "complete"
    assert page["messages"][1]["usage"] == reading.end["usage"]
    assert page["activeSessionId"] is None


async def test_the_same_question_again_is_a_hit(world: World) -> None:
    model = world.model("hit-1")
    client = world.client(world.server())
    _, first = await client.ask("What is a cache?", model)
    again, second = await client.ask("What is a cache?", model)
    assert second.source == "cache"
    assert second.text == first.text
    assert world.fake.calls(model) == 1
    assert text_of(await client.reply(again)) == first.text
    # In the same chat too: the turn repeats the one before it.
    _, third = await client.ask("What is a cache?", model, chatId=again["chatId"])
    assert third.source == "cache"
    assert world.fake.calls(model) == 1


async def test_equal_questions_at_once_make_one_call(world: World) -> None:
    model = world.model("equal-1", delay=0.02)
    servers = [world.server(), world.server()]
    clients = [world.client(servers[number % 2]) for number in range(10)]
    results = await asyncio.gather(*(client.ask("What is one?", model) for client in clients))
    assert world.fake.calls(model) == 1
    assert {reading.text for _, reading in results} == {reply_to("What is one?")}
    for client, (started, reading) in zip(clients, results, strict=True):
        assert text_of(await client.reply(started)) == reading.text


async def test_a_reader_resumes_in_another_process(world: World) -> None:
    model = world.model("resume-1", delay=0.03)
    here, there = (world.client(world.server()) for _ in range(2))
    started = await here.start("What is a resume?", model)
    reading = await here.read(started["sessionId"], upto=10)
    seen = reading.text
    await there.read(started["sessionId"], reading)
    assert reading.text.startswith(seen)
    assert reading.text == reply_to("What is a resume?")
    assert "reset" not in reading.types()
    assert reading.end is not None
    assert text_of(await here.reply(started)) == reading.text
    assert world.fake.calls(model) == 1


async def test_stop_saves_the_partial_and_ends_the_call(world: World) -> None:
    model = world.model("stop-1", count=5000, delay=0.02)
    client = world.client(world.server())
    started = await client.start("What is a stop?", model)
    reading = Transcript()
    reading_task = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 20)
    closed = world.fake.stats()["closedEarly"]
    await client.stop(started["sessionId"])
    await client.stop(started["sessionId"])
    await asyncio.wait_for(reading_task, 30)
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"
    world.fake.until(lambda stats: stats["closedEarly"] == closed + 1)
    reply = await client.reply(started)
    assert reply["status"] == "stopped"
    assert text_of(reply) == reading.text != ""
    _, after = await client.ask("And then?", chatId=started["chatId"])
    assert after.end is not None
