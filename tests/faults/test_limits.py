"""What a plan allows, against bursts over two processes: row 25 of the list of faults."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from local.fake_provider import reply_to
from parley.domain.conversation import Reply
from parley.domain.events import Completed, FinishReason, Usage
from parley.valkey.log import ValkeyLog
from tests.client import Client, Refused, Transcript, eventually, text_of
from tests.faults.test_readers import LEASES
from tests.world import MACS, World

# Models of the harness write 1000 tokens at most.
_MOST = 1000
_users = count()


@pytest.fixture
async def limited(shared: World) -> AsyncIterator[World]:
    """The shared world, its plans unlimited again afterwards; a test lies within one day."""
    left = (_midnight() - datetime.now(UTC)).total_seconds()
    if left < 30:
        await asyncio.sleep(left + 1)
    yield shared
    shared.limit()


def _midnight() -> datetime:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), UTC)


def _clients(world: World, number: int = 8) -> list[Client]:
    """Clients of one new user, in two processes by turns."""
    user = f"limited-{next(_users)}"
    world.sql("insert into users (id, plan_id) values (%s, 'pro')", user)
    return [world.client(world.common_server(place % 2), user) for place in range(number)]


async def _burst(
    clients: list[Client], prompts: list[str], model: str
) -> tuple[list[dict[str, Any]], list[Refused]]:
    """Start everything at once; return what began and what was refused, which may only be by a limit."""
    outcomes = await asyncio.gather(
        *(
            client.start(prompt, model)
            for client, prompt in zip(clients * len(prompts), prompts, strict=False)
        ),
        return_exceptions=True,
    )
    started = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(started) + len(refused) == len(prompts)
    for one in refused:
        assert (one.status, one.error["code"], one.error["retryable"]) == (429, "rate_limited", True)
        assert int(one.headers["retry-after"]) >= 1
        assert set(one.error) == {"code", "message", "retryable", "limit", "remaining"}
        assert set(one.error["remaining"]) == {"requests", "streams", "tokens"}
    return started, refused


def _rows(world: World, user: str) -> tuple[int, int, int]:
    [row] = world.sql(
        "select (select count(*) from chats where owner_id = %s), (select count(*) from messages m"
        " join chats c on c.id = m.chat_id where c.owner_id = %s),"
        " (select count(*) from sessions where user_id = %s)",
        user, user, user,
    )  # fmt: skip
    return tuple(row)


def _usage(world: World, user: str) -> tuple[int, int]:
    """Return what the user has used today, and what is set aside."""
    [row] = world.sql(
        "select (select coalesce(sum(input_tokens + output_tokens), 0)::int from token_usage"
        " where user_id = %s and day = (now() at time zone 'utc')::date),"
        " (select coalesce(sum(reserved_input_tokens + reserved_output_tokens), 0)::int from sessions"
        " where user_id = %s and state <> 'ended')",
        user, user,
    )  # fmt: skip
    return tuple(row)


async def test_25_requests_a_minute(limited: World) -> None:
    model = limited.model("limit-requests")
    limited.limit(requests_per_minute=7)
    clients = _clients(limited)
    started, refused = await _burst(clients, [f"Burst {n}?" for n in range(40)], model)
    assert len(started) == 7
    for one in refused:
        assert one.error["limit"] == "requests"
        assert one.error["remaining"] == {"requests": 0, "streams": None, "tokens": None}
        assert 30 <= int(one.headers["retry-after"]) <= 60
    # What was refused left nothing behind.
    assert _rows(limited, clients[0].user) == (7, 14, 7)
    assert (await clients[0].read(started[0]["sessionId"])).end is not None
    # Nobody else is held up, and once a minute is over it begins anew: exactly as much as before.
    other = _clients(limited, 1)
    await other[0].ask("Am I free?", model)
    limited.sql(
        "update sessions set created_at = created_at - interval '60 seconds' where user_id = %s",
        clients[0].user,
    )
    started, refused = await _burst(clients, [f"Burst again {n}?" for n in range(20)], model)
    assert (len(started), len(refused)) == (7, 13)


async def test_25_retry_after_is_when_it_works_again(limited: World) -> None:
    model = limited.model("limit-retry")
    limited.limit(requests_per_minute=2)
    [client] = _clients(limited, 1)
    for number in range(2):
        await client.start(f"Soon {number}?", model)
    limited.sql(
        "update sessions set created_at = created_at - interval '56 seconds' where user_id = %s",
        client.user,
    )
    with pytest.raises(Refused) as refused:
        await client.start("Too soon?", model)
    seconds = int(refused.value.headers["retry-after"])
    assert 1 <= seconds <= 4
    await asyncio.sleep(seconds)
    await client.start("Now?", model)


async def test_25_streams_at_once(limited: World) -> None:
    model = limited.model("limit-streams", count=2000, delay=0.05)
    limited.limit(concurrent_streams=3)
    clients = _clients(limited)
    started, refused = await _burst(clients, [f"Stream {n}?" for n in range(24)], model)
    assert len(started) == 3
    for one in refused:
        assert one.error["limit"] == "streams"
        assert one.error["remaining"] == {"requests": None, "streams": 0, "tokens": None}
        assert 1 <= int(one.headers["retry-after"]) <= 10
    assert _rows(limited, clients[0].user) == (3, 6, 3)
    readings = [Transcript() for _ in started]
    reads = [
        asyncio.create_task(client.read(one["sessionId"], reading))
        for client, one, reading in zip(clients, started, readings, strict=False)
    ]
    await eventually(lambda: all(reading.text for reading in readings))
    _, refused = await _burst(clients, ["While they stream?"] * 4, model)
    assert len(refused) == 4
    # One that ends makes room for one, however many want it.
    await clients[1].stop(started[0]["sessionId"])
    await asyncio.wait_for(reads[0], 60)
    again, refused = await _burst(clients, [f"Room {n}?" for n in range(12)], model)
    assert (len(again), len(refused)) == (1, 11)
    for left in (*started[1:], *again):
        await clients[0].stop(left["sessionId"])
    await asyncio.wait_for(asyncio.gather(*reads), 60)


def _prompts(word: str, number: int) -> list[str]:
    """Return prompts of ten characters, which are estimated as 3 tokens and counted as 2."""
    return [f"{word} {n:02}?" for n in range(number)]


async def test_25_tokens_a_day(limited: World) -> None:
    model = limited.model("limit-tokens", count=50, delay=0.02)
    reserve = _MOST + 3
    budget = 4 * reserve + 200
    limited.limit(tokens_per_day=budget)
    clients = _clients(limited)
    user = clients[0].user
    started, refused = await _burst(clients, _prompts("Tokens", 24), model)
    assert len(started) == 4
    for one in refused:
        assert one.error["limit"] == "tokens"
        assert one.error["remaining"] == {"requests": None, "streams": None, "tokens": 200}
        # Those that run will use less.
        assert int(one.headers["retry-after"]) <= 10
    assert _usage(limited, user) == (0, 4 * reserve)
    # Each is read in both processes at once, whichever of them writes and saves it: charged once, as counted.
    ends = await asyncio.gather(*(client.read(one["sessionId"]) for client in clients[:2] for one in started))
    assert {reading.end["usage"]["totalTokens"] for reading in ends if reading.end} == {52}
    used = 4 * 52
    await eventually(lambda: _usage(limited, user) == (used, 0))
    # There is room for three now, and nobody gets more out of it.
    again, refused = await _burst(clients, _prompts("Second", 16), model)
    assert len(again) == (budget - used) // reserve == 3
    assert {one.error["remaining"]["tokens"] for one in refused} == {budget - used - 3 * reserve}
    for unread in again:
        await clients[0].stop(unread["sessionId"])
    # Nobody had a model asked for those.
    assert _usage(limited, user) == (used, 0)
    # A day that is used up ends at midnight, by UTC.
    limited.sql("update token_usage set output_tokens = %s where user_id = %s", budget, user)
    started, refused = await _burst(clients, _prompts("Third!", 4), model)
    assert started == []
    for one in refused:
        assert one.error["remaining"]["tokens"] == 0
        left = (_midnight() - datetime.now(UTC)).total_seconds()
        assert abs(int(one.headers["retry-after"]) - left) < 30
    limited.sql("update token_usage set day = day - 1 where user_id = %s", user)
    assert len((await _burst(clients, _prompts("Fourth", 16), model))[0]) == 4


async def test_25_what_a_stop_a_join_and_a_hit_are_charged(limited: World) -> None:
    slow = limited.model("limit-slow", count=2000, delay=0.02)
    client, other, *joiners = _clients(limited, 6)
    user = client.user
    # Stopped half way the provider tells no count: the question as it was set aside, the text estimated.
    started = await client.start("Tokens 00?", slow)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 40)
    await other.stop(started["sessionId"])
    await asyncio.wait_for(reads, 60)
    assert reading.end is not None
    assert (reading.end["finishReason"], reading.end["usage"]) == ("stopped", None)
    used = 3 + -(-len(reading.text) // 4)
    assert _usage(limited, user) == (used, 0)
    # One call for all who ask the same: one of them is charged for it, and nobody for the cache.
    model = limited.model("limit-joined", count=50, delay=0.02)
    everybody = (client, other, *joiners)
    asked = await asyncio.gather(*(one.ask("Tokens 00?", model) for one in everybody))
    assert {reading.text for _, reading in asked} == {asked[0][1].text}
    assert limited.fake.calls(model) == 1
    _, hit = await other.ask("Tokens 00?", model)
    assert hit.source == "cache"
    await eventually(lambda: _usage(limited, user) == (used + 52, 0))


async def test_25_what_a_crash_leaves_is_settled_by_the_purge(world: World) -> None:
    model = world.model("limit-crash", count=500, delay=0.02)
    server = world.server(**LEASES)
    client = world.client(server)
    world.limit(concurrent_streams=1)
    started = await client.start("Tokens 00?", model)
    reading = await client.read(started["sessionId"], upto=40)
    await asyncio.sleep(0.3)
    server.kill()
    there = world.client(world.server(**LEASES))
    # It holds its place for as long as a reader may take it over.
    with pytest.raises(Refused) as refused:
        await there.start("Tokens 01?", model)
    assert refused.value.error["limit"] == "streams"
    await eventually(lambda: _purged(world))
    (used, reserved) = _usage(world, client.user)
    assert reserved == 0
    reply = await there.reply(started)
    assert used == 3 + -(-len(text_of(reply)) // 4) >= 3 + len(reading.text) // 4
    assert (await world.purge()).orphans_ended == 0
    assert _usage(world, client.user) == (used, 0)
    await there.start("Tokens 01?", model)


async def test_25_what_was_parked_is_settled_once(world: World) -> None:
    model = world.model("limit-parked", count=500, delay=0.02)
    server = world.server(**LEASES)
    client = world.client(server)
    started = await client.start("Tokens 00?", model)
    await client.read(started["sessionId"], upto=10)
    [[epoch]] = world.sql("select epoch from sessions where id = %s", started["sessionId"])
    server.kill()
    # What its server would have left, had the database been away at the end.
    reply = Reply(epoch, "All of it.", Completed(FinishReason.STOP, "stop", Usage(2, 500)))
    log = ValkeyLog(
        world.valkey_url, macs=MACS, prefix="parley", timeout=1, lease_seconds=5, cache_seconds=60
    )
    for saved in (1, 0):
        await log.park(started["sessionId"], reply, "provider")
        assert (await world.purge()).parked_saved == saved
        assert _usage(world, client.user) == (502, 0)
    await log.close()


async def _purged(world: World) -> bool:
    return (await world.purge()).orphans_ended == 1


async def test_25_a_repeat_is_never_refused(limited: World) -> None:
    model = limited.model("limit-repeat")
    limited.limit(requests_per_minute=1, concurrent_streams=1, tokens_per_day=_MOST + 3)
    clients = _clients(limited)
    starts = [client.start("Tokens 00?", model, key="once") for client in clients]
    first, *others = await asyncio.gather(*starts)
    assert all(other == first for other in others)
    reading = await clients[0].read(first["sessionId"])
    assert reading.text == reply_to("Tokens 00?")
    assert await clients[1].start("Tokens 00?", model, key="once") == first
    with pytest.raises(Refused) as refused:
        await clients[1].start("Tokens 01?", model, key="twice")
    assert refused.value.status == 429
