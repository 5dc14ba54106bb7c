"""What a Valkey that is away, full, empty or lying costs: rows 40 to 43 of the list of faults."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from local.embedded import Addresses
from local.fake_provider import reply_to
from parley.domain.conversation import Reply
from parley.domain.events import Completed, FinishReason
from parley.domain.results import Hit, Write
from parley.valkey.log import ValkeyLog
from tests.client import Client, Transcript, eventually, text_of
from tests.faults.test_readers import LEASES
from tests.processes import Fake
from tests.world import MACS, World


@pytest.fixture
async def fragile(
    tmp_path: Path, demo_database_url: str, own_valkey: Addresses, fake: Fake
) -> AsyncIterator[tuple[World, Addresses]]:
    """A world with a Valkey of its own, to be broken."""
    world = World(tmp_path, demo_database_url, own_valkey.valkey_url, fake)
    yield world, own_valkey
    with contextlib.suppress(ProcessLookupError):
        os.kill(own_valkey.valkey_pid, signal.SIGCONT)
    await world.close()


def _command(stores: Addresses, *words: str) -> Any:
    with redis.Redis.from_url(stores.valkey_url) as client:
        return client.execute_command(*words)


def _refuse(stores: Addresses) -> None:
    os.kill(stores.valkey_pid, signal.SIGKILL)


def _hang(stores: Addresses) -> None:
    os.kill(stores.valkey_pid, signal.SIGSTOP)


def _fill(stores: Addresses) -> None:
    _command(stores, "config", "set", "maxmemory-policy", "noeviction")
    _command(stores, "config", "set", "maxmemory", "1")


def _demote(stores: Addresses) -> None:
    _command(stores, "replicaof", "127.0.0.1", "1")


def _wipe(stores: Addresses) -> None:
    _command(stores, "flushall")


BREAKS: dict[str, Callable[[Addresses], None]] = {
    "refused": _refuse, "silent": _hang, "full": _fill, "readonly": _demote, "wiped": _wipe,
}  # fmt: skip


@pytest.mark.parametrize("how", BREAKS)
async def test_40_broken_before_the_stream(fragile: tuple[World, Addresses], how: str) -> None:
    world, stores = fragile
    model = world.model(f"row-40-{how}")
    server = world.server()
    client = world.client(server)
    await client.ask("Load everything.", model)
    BREAKS[how](stores)
    started, reading = await client.ask(f"Is it {how}?", model)
    assert reading.text == reply_to(f"Is it {how}?")
    assert reading.end is not None
    assert reading.end["saved"] is True
    assert text_of(await client.reply(started)) == reading.text
    _, reading = await client.ask(f"Is it still {how}?", model)
    assert reading.text == reply_to(f"Is it still {how}?")
    # Noticed once, and not asked again by any request until it is back.
    assert server.output().count('"log_unavailable"') == (0 if how == "wiped" else 1)


@pytest.mark.parametrize("how", BREAKS)
async def test_40_broken_in_the_middle(fragile: tuple[World, Addresses], how: str) -> None:
    world, stores = fragile
    model = world.model(f"row-40-middle-{how}", delay=0.05)
    here, there = (world.client(world.server(**LEASES)) for _ in range(2))
    started = await here.start(f"Is it {how} now?", model)
    reading, elsewhere = Transcript(), Transcript()
    reads = asyncio.create_task(here.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    other = asyncio.create_task(there.read(started["sessionId"], elsewhere))
    await eventually(lambda: len(elsewhere.text) > 3)
    BREAKS[how](stores)
    await asyncio.wait_for(asyncio.gather(reads, other), 60)
    whole = reply_to(f"Is it {how} now?")
    assert reading.text == elsewhere.text == whole == text_of(await here.reply(started))
    assert world.fake.calls(model) == 1
    # The writer's own reader did not even notice.
    assert "reset" not in reading.types()


async def test_40_back_again(fragile: tuple[World, Addresses]) -> None:
    world, stores = fragile
    model = world.model("row-40-back")
    client = world.client(world.server())
    await client.ask("Load everything.", model)
    _hang(stores)
    await client.ask("Is it silent?", model)
    os.kill(stores.valkey_pid, signal.SIGCONT)

    async def cached() -> bool:
        _, reading = await client.ask("Is it back?", model)
        return reading.source == "cache"

    await eventually(cached)


@pytest.fixture
def client(shared: World) -> Client:
    """A client of a server that tests share."""
    return shared.client(shared.common_server())


_END = b'{"finish":"stop","providerReason":null,"usage":[1,2]}'


@pytest.mark.parametrize(
    "value",
    [
        b"", b"junk", b"99999999999999999 [9,9]", b'1 [1,"old"]', b"\xff\xfe", b"1 " + b"[" * 100_000,
        # What could be read, but not saved, or is nobody's to be given.
        b'99999999999999999999 [1,"x",%b]' % _END, b'9223372036854775807 [1,"x",%b]' % _END,
        b'-5 [1,"x",%b]' % _END, b'1 [1,"x\\u0000",%b]' % _END, b'1 [1,"",%b]' % _END,
        *(
            b'1 [1,"x",%b]' % _END.replace(*change)
            for change in (
                (b'"stop"', b'"length"'), (b'"stop"', b'"x"'), (b"null", b'"\\u0000"'), (b"null", b"7"),
                (b"[1,2]", b"[-3,2]"), (b"[1,2]", b"[3000000000,2]"), (b"[1,2]", b"[1.5,2]"),
                (b"[1,2]", b'"ab"'), (b"[1,2]", b"[true,2]"),
            )
        ),
        b'1 [1,"x",{"code":"c","message":"m","retryable":true,"retryAfterMs":null}]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("context", ["new chat", "old chat"])
async def test_40_corrupt_or_old_entry_is_a_miss(
    shared: World, client: Client, value: bytes, context: str
) -> None:
    model = shared.model("row-40-corrupt")
    prompt, fields = f"What is corruption in the {context}?", {}
    # In a chat, only the one question that it consists of is asked without context.
    opening, _ = await client.ask(prompt if context == "old chat" else "Which model?", model)
    if context == "old chat":
        fields = {"chatId": opening["chatId"]}
    _, first = await client.ask(prompt, model, **fields)
    with redis.Redis.from_url(shared.valkey_url) as valkey:
        for name in valkey.keys("*:done"):
            # With a MAC, as another version of these servers would write it.
            key = name.decode().partition("{")[2].partition("}")[0]
            valkey.set(name, value + MACS.make(b"done", key, 0, 0, value))
    started, second = await client.ask(prompt, model, **fields)
    assert second.text == first.text
    assert second.source in ("provider", "joined")
    assert second.end is not None
    assert second.end["saved"] is True
    assert text_of(await client.reply(started)) == first.text
    _, third = await client.ask(prompt, model, **fields)
    assert third.text == first.text
    assert third.source == "cache"


async def test_40_entry_of_another_type(world: World) -> None:
    model = world.model("row-40-type")
    client = world.client(world.server())
    _, first = await client.ask("What is a type?", model)
    with redis.Redis.from_url(world.valkey_url) as valkey:
        [name] = valkey.keys("*:done")
        valkey.delete(name)
        valkey.lpush(name, "a list")
    started, second = await client.ask("What is a type?", model)
    assert second.text == first.text
    assert text_of(await client.reply(started)) == first.text


async def test_41_a_hit_has_the_same_frames_and_is_saved(world: World) -> None:
    model = world.model("row-41")
    client = world.client(world.server())
    _, first = await client.ask("What is a frame?", model)
    started, hit = await client.ask("What is a frame?", model)
    assert hit.source == "cache"
    assert hit.text == first.text
    assert set(hit.types()) <= set(first.types())
    assert hit.end is not None
    assert first.end is not None
    assert {**hit.end, "messageId": ""} == {**first.end, "messageId": ""}
    assert text_of(await client.reply(started)) == first.text
    assert (await client.reply(started))["source"] == "cache"
    assert world.fake.calls(model) == 1


async def test_41_a_hit_is_saved_when_its_session_opens(world: World) -> None:
    model = world.model("row-41-at-once")
    here, there = (world.client(world.server(), user) for user in ("demo-pro", "demo-free"))
    _, first = await here.ask("What is known?", model)
    # The other process does not know the model before it has opened a session for it.
    await there.ask("What is a model?", model)
    started = await there.start("What is known?", model, key="41")
    # Nobody has read it yet, nobody can lose it, and the chat is free for the next question.
    reply = await there.reply(started)
    assert (text_of(reply), reply["status"], reply["source"]) == (first.text, "complete", "cache")
    assert await there.start("What is known?", model, key="41") == started
    await there.stop(started["sessionId"])
    after, _ = await there.ask("And then?", model, chatId=started["chatId"])
    assert after["chatId"] == started["chatId"]
    reading = await there.read(started["sessionId"])
    assert (reading.text, reading.source) == (first.text, "cache")
    assert reading.end is not None
    assert reading.end["saved"] is True
    assert world.fake.calls(model) == 3


async def test_42_anything_else_is_a_miss(world: World) -> None:
    server = world.server()
    model, other = world.model("row-42"), world.model("row-42-other")
    one, two = world.client(server, "demo-pro"), world.client(server, "demo-free")
    started, _ = await one.ask("What is a miss?", model)
    # Another model, another context, another user with context, a changed parameter.
    await one.ask("What is a miss?", other)
    assert world.fake.calls(other) == 1
    await one.ask("And a hit?", model, chatId=started["chatId"])
    assert world.fake.calls(model) == 2
    theirs, _ = await two.ask("What is a miss?", model)
    assert world.fake.calls(model) == 2
    await two.ask("And a hit?", model, chatId=theirs["chatId"])
    assert world.fake.calls(model) == 3
    world.sql("update models set parameters = '{\"temperature\": 0.5}' where id = %s", model)
    await one.ask("What is a miss?", model)
    assert world.fake.calls(model) == 4


async def test_42_context_free_replies_are_not_shared_where_that_is_off(world: World) -> None:
    server = world.server(SHARE_CONTEXT_FREE="false")
    model = world.model("row-42-unshared")
    await world.client(server, "demo-pro").ask("What is mine?", model)
    await world.client(server, "demo-free").ask("What is mine?", model)
    assert world.fake.calls(model) == 2


async def test_43_a_cancelled_command_gives_nobody_anothers_answer(valkey_url: str) -> None:
    log = ValkeyLog(valkey_url, macs=MACS, prefix="row43", timeout=5.0, lease_seconds=5, cache_seconds=60)
    replies = {}
    for number in range(20):
        key = f"key-{number}"
        written = await log.join(key, "s", "owner", epoch=0, may_create=True)
        assert isinstance(written, Write)
        reply = Reply(written.epoch, f"text of {key}", Completed(FinishReason.STOP))
        await log.end(key, "owner", reply, 0)
        replies[key] = reply
    for round_number in range(60):
        tasks = [asyncio.create_task(log.join(key, "s", "o", epoch=0, may_create=True)) for key in replies]
        # Cancel at another point of the exchange each time.
        await asyncio.sleep(round_number * 0.0001)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for reply, result in zip(replies.values(), results, strict=True):
            if not isinstance(result, asyncio.CancelledError):
                assert result == Hit(reply)
    await log.close()
