"""The stream function over real sockets: statuses before the stream, and what a stream is."""

import asyncio
import json
import time

import httpx
import pytest

from tests.client import Client, Transcript, eventually, text_of
from tests.processes import IN_LAMBDA
from tests.world import World


@pytest.fixture
def client(world: World) -> Client:
    return world.client(world.server(HEARTBEAT_SECONDS="0.3", SESSION_SECONDS="2"))


async def stream(client: Client, headers: dict[str, str] | None = None, **query: str) -> httpx.Response:
    return await client.http.get("/chat/stream", params=query, headers=headers or {})


async def test_what_is_no_session_is_a_status_with_a_reason(world: World, client: Client) -> None:
    missing = await stream(client)
    assert (missing.status_code, missing.json()["error"]["field"]) == (400, "sessionId")
    bodies = set()
    for session_id in ("unheard-of", "", "a b", "x" * 500, "a\0b", "..%2f"):
        unknown = await stream(client, sessionId=session_id)
        assert unknown.status_code == 404
        assert unknown.headers["content-type"] == "application/json"
        bodies.add(unknown.content)
    assert len(bodies) == 1
    started = await client.start("Too late?")
    await asyncio.sleep(2.1)
    late = await stream(client, sessionId=started["sessionId"])
    assert (late.status_code, late.json()["error"]["code"]) == (410, "session_expired")
    started = await client.start("Disabled?")
    world.sql("update users set disabled_at = now() where id = 'demo-pro'")
    disabled = await stream(client, sessionId=started["sessionId"])
    assert (disabled.status_code, disabled.json()["error"]["code"]) == (403, "user_disabled")
    head = await client.http.post("/chat/stream")
    assert head.status_code == 405


async def test_a_stream_is_an_event_stream(client: Client) -> None:
    started = await client.start("What is a stream?")
    response = await stream(client, sessionId=started["sessionId"])
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "no-transform" in response.headers["cache-control"]
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.text.startswith("id: ")
    assert response.text.endswith("\n\n")


async def test_the_header_knows_better_than_the_query(client: Client) -> None:
    started = await client.start("Where was I?")
    whole = await client.read(started["sessionId"])
    assert whole.cursor is not None
    epoch, _, length = whole.cursor.partition("-")
    begin = f"{epoch}-0"
    session = started["sessionId"]
    assert (await stream(client, sessionId=session, cursor=whole.cursor)).status_code == 204
    at_end = await stream(client, {"last-event-id": whole.cursor}, sessionId=session, cursor=begin)
    assert (at_end.status_code, at_end.content) == (204, b"")
    again = await stream(client, {"last-event-id": begin}, sessionId=session, cursor=whole.cursor)
    assert again.status_code == 200
    half = int(length) // 2
    reading = Transcript()
    reading.text, reading.cursor = whole.text[:half], f"{epoch}-{half}"
    await client.read(session, reading)
    assert reading.text == whole.text
    assert reading.source == "history"


async def test_a_stream_begins_with_what_the_model_s_context_left_out(world: World, client: Client) -> None:
    model = world.model("narrow")
    world.sql("update models set context_characters = 60 where id = %s", model)
    first, reading = await client.ask("One?", model)
    assert "leftOut" not in reading.events[0]
    chat = first["chatId"]
    later, _ = await client.ask("Two, and some more words?", model, chatId=chat)
    asked, reading = await client.ask("Three?", model, chatId=chat)
    start = reading.events[0]
    # `You said: ` and the question: 4 + 14, 25 + 35 and 6 characters.
    assert (start["leftOut"], start["contextFrom"]) == (4, asked["messageId"])
    world.sql("update models set context_characters = 80 where id = %s", model)
    _, reading = await client.ask(None, model, chatId=chat, replaces=asked["replyId"])
    assert (reading.events[0]["leftOut"], reading.events[0]["contextFrom"]) == (2, later["messageId"])


async def test_silence_is_filled_and_the_first_frame_comes_before_it(world: World, client: Client) -> None:
    model = world.model("silent-1", fault="stall", fault_after=0)
    started = await client.start("Are you there?", model)
    arrivals = b""
    async with client.http.stream(
        "GET", "/chat/stream", params={"sessionId": started["sessionId"]}
    ) as response:
        async for chunk in response.aiter_raw():
            arrivals += chunk
            if arrivals.count(b'"state":"thinking"') == 2:
                break
    assert arrivals.startswith(b"id: ")
    await client.stop(started["sessionId"])


async def test_silence_between_words_is_filled_with_comments(world: World, client: Client) -> None:
    model = world.model("silent-2", fault="stall", fault_after=1)
    started = await client.start("Are you still there?", model)
    arrivals = b""
    async with client.http.stream(
        "GET", "/chat/stream", params={"sessionId": started["sessionId"]}
    ) as response:
        async for chunk in response.aiter_raw():
            arrivals += chunk
            if arrivals.count(b": heartbeat\n\n") == 2:
                break
    assert b'"type":"token"' in arrivals.partition(b": heartbeat")[0]
    await client.stop(started["sessionId"])


async def test_lambda_s_deadline_truncates_in_time(world: World) -> None:
    model = world.model("deadline-1", count=1000, delay=0.05)
    client = world.client(world.server(**IN_LAMBDA, DEADLINE_MARGIN_SECONDS="28.5"))
    started = await client.start("How long have I got?", model)
    deadline = time.time() + 30
    headers = {"x-amzn-lambda-context": json.dumps({"deadline": deadline * 1000})}
    begun = time.monotonic()
    response = await stream(client, headers, sessionId=started["sessionId"])
    assert time.monotonic() - begun > 0.5
    assert time.time() < deadline
    end = json.loads(response.text.strip().rpartition("data: ")[2])
    assert (end["type"], end["finishReason"], end["saved"]) == ("done", "truncated", True)
    assert (await client.reply(started))["status"] == "truncated"


async def test_outside_lambda_no_client_sets_a_deadline(world: World, client: Client) -> None:
    model = world.model("deadline-2", count=20)
    started = await client.start("How long do I give you?", model)
    headers = {"x-amzn-lambda-context": json.dumps({"deadline": 0})}
    response = await stream(client, headers, sessionId=started["sessionId"])
    end = json.loads(response.text.strip().rpartition("data: ")[2])
    assert (end["type"], end["finishReason"]) == ("done", "stop")
    assert (await client.reply(started))["status"] == "complete"


async def test_a_reader_that_leaves_costs_nothing(world: World, client: Client) -> None:
    model = world.model("leaves-1", delay=0.02)
    started = await client.start("Shall I wait?", model)
    await client.read(started["sessionId"], upto=5)

    async def complete() -> bool:
        return bool((await client.reply(started))["status"] == "complete")

    await eventually(complete)
    reading = await client.read(started["sessionId"])
    assert reading.text == text_of(await client.reply(started))


async def test_a_paced_hit_comes_word_by_word(world: World) -> None:
    client = world.client(world.server(CACHE_REPLAY_TOKENS_PER_SECOND="100"))
    _, first = await client.ask("Slowly?")
    _, second = await client.ask("Slowly?")
    assert (second.source, second.text) == ("cache", first.text)
    assert second.types().count("token") == len(first.text.split())
