"""What a Postgres that is away, crowded or cut costs: rows 44 to 47 and 50 of the list of faults."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from local.embedded import Addresses
from local.fake_provider import reply_to
from local.seed import seed
from parley.domain.errors import StoreUnavailable
from parley.postgres.pool import Pool
from tests.client import Refused, Transcript, eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.faults.test_readers import LEASES
from tests.processes import Fake, Server
from tests.world import SESSION_IDS, World, run_purge


@pytest.fixture
async def fragile(
    tmp_path: Path, own_postgres: Addresses, valkey_url: str, fake: Fake
) -> AsyncIterator[tuple[World, Addresses]]:
    """A world with a Postgres of its own, to be broken."""
    await seed(own_postgres.database_url)
    world = World(tmp_path, own_postgres.database_url, valkey_url, fake)
    yield world, own_postgres
    _thaw(own_postgres)
    await world.close()


def _family(pid: int) -> list[int]:
    """Return the server and its backends: a postmaster that sleeps does not silence them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _freeze(stores: Addresses) -> None:
    for pid in _family(stores.postgres_pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def _thaw(stores: Addresses) -> None:
    with contextlib.suppress(FileNotFoundError):
        for pid in reversed(_family(stores.postgres_pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _cut_connections(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            # Of this database only: other tests use the same server. It returns when they are gone.
            "select pg_terminate_backend(pid, 30000) from pg_stat_activity"
            " where datname = current_database() and application_name = 'parley'"
        )


def _reasons(server: Server) -> set[str]:
    """Return why a server could not reach the database, as its log tells."""
    lines = [json.loads(line) for line in server.out.read_text().splitlines()]
    return {line["error"] for line in lines if line["message"] == "database_unavailable"}


async def test_44_away_at_start(fragile: tuple[World, Addresses]) -> None:
    world, stores = fragile
    model = world.model("row-44")
    server = world.server(DATABASE_TIMEOUT="1")
    client = world.client(server)
    await client.ask("Load everything.", model)
    [[before]] = world.sql("select count(*) from messages")
    _freeze(stores)
    # The database stays away until after the answer.
    with pytest.raises(Refused) as refused:
        await client.start("Are you there?", model)
    assert refused.value.status == 503
    assert refused.value.error["code"] == "unavailable"
    assert refused.value.error["retryable"] is True
    assert int(refused.value.headers["retry-after"]) >= 1
    session = SESSION_IDS.new()
    for path in ("/chat/history?chatId=x&userId=demo-pro", f"/chat/stream?sessionId={session}", "/health"):
        assert (await client.http.get(path)).status_code == 503
    assert _reasons(server) == {"TimeoutError"}
    _thaw(stores)
    await asyncio.sleep(0.5)
    [[after]] = world.sql("select count(*) from messages")
    # A start whose answer was lost may have been carried out, whole; never half.
    assert after - before in (0, 2)
    _, reading = await client.ask("Are you back?", model)
    assert reading.text == reply_to("Are you back?")


async def test_44_refused_at_start(fragile: tuple[World, Addresses]) -> None:
    world, stores = fragile
    server = world.server()
    client = world.client(server)
    await client.ask("Load everything.", world.model("row-44-b"))
    assert not _reasons(server)
    os.kill(stores.postgres_pid, signal.SIGQUIT)
    await eventually(lambda: not Path(f"/proc/{stores.postgres_pid}/task").exists())
    # The database stays away until after the answer.
    with pytest.raises(Refused) as refused:
        await client.start("Are you there?", "row-44-b")
    assert refused.value.status == 503
    assert _reasons(server) == {"OperationalError"}


async def test_45_away_at_save(fragile: tuple[World, Addresses]) -> None:
    world, stores = fragile
    model = world.model("row-45", delay=0.05)
    client = world.client(world.server(DATABASE_TIMEOUT="1"))
    await client.ask("Load everything.", world.model("row-45-warm"))
    started = await client.start("Will it be saved?", model)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    _freeze(stores)
    await asyncio.wait_for(reads, 60)
    assert reading.text == reply_to("Will it be saved?")
    assert reading.end is not None
    assert reading.end["type"] == "done"
    assert reading.end["saved"] is False
    # What the database took before it fell silent may be carried out when it wakes up, or not.
    world.servers[0].kill()
    _thaw(stores)
    await world.purge()
    other = world.client(world.server())
    reply = await other.reply(started)
    assert reply["status"] == "complete"
    assert text_of(reply) == reading.text
    await world.purge()
    assert await other.reply(started) == reply


async def _unsaved(world: World, proxy: FaultProxy, server: Server) -> tuple[dict[str, Any], Transcript]:
    """Have a reply end while the database takes nothing, and return its session."""
    model = world.model("row-45-parked", delay=0.05)
    client = world.client(server)
    started = await client.start("Will it be saved later?", model)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    await proxy.refuse()
    proxy.reset()
    await asyncio.wait_for(reads, 60)
    assert reading.text == reply_to("Will it be saved later?")
    assert reading.end is not None
    assert (reading.end["type"], reading.end["saved"]) == ("done", False)
    assert world.sql("select state from sessions where id = %s", started["sessionId"]) == [("streaming",)]
    return started, reading


async def test_45_the_purge_saves_what_a_dead_process_parked(world: World) -> None:
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url)
        started, reading = await _unsaved(world, proxy, server)
        assert "reply_parked" in server.output()
        server.kill()
    # The log of the generation is soon gone; what was parked stays.
    with redis.Redis.from_url(world.valkey_url) as valkey:
        for name in valkey.keys("*}:*"):
            valkey.delete(name)
    assert (await world.purge()).parked_saved == 1
    other = world.client(world.server())
    reply = await other.reply(started)
    assert reply["status"] == "complete"
    assert text_of(reply) == reading.text
    assert (await world.purge()).parked_saved == 0
    assert await other.reply(started) == reply
    assert (await other.read(started["sessionId"], reading)).status == 204


def _lapse(world: World) -> None:
    """Delete what Valkey forgets by itself: logs soon, cached replies later. What was parked stays."""
    with redis.Redis.from_url(world.valkey_url) as valkey:
        for name in valkey.keys("*}:*"):
            valkey.delete(name)


async def _lost_lease(world: World) -> None:
    """Wait until nobody holds a session."""
    running = "select count(*) from sessions where state = 'streaming' and lease_until > clock_timestamp()"
    await eventually(lambda: world.sql(running) == [(0,)])


async def test_45_a_purge_that_does_not_reach_valkey_ends_no_reply_that_is_parked(world: World) -> None:
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url, **LEASES)
        started, reading = await _unsaved(world, proxy, server)
        server.kill()
    _lapse(world)
    await _lost_lease(world)
    async with FaultProxy(world.valkey_url) as nowhere:
        await nowhere.refuse()
        done = await run_purge(world.database_url, nowhere.url)
        assert (done.parked_saved, done.orphans_ended) == (0, 0)
    assert (await world.purge()).parked_saved == 1
    reply = await world.client(world.server()).reply(started)
    assert (reply["status"], text_of(reply)) == ("complete", reading.text)


async def test_45_more_parked_replies_than_a_batch_are_all_saved(world: World) -> None:
    model = world.model("row-45-batch", delay=0.05)
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url, **LEASES)
        client = world.client(server)
        sessions = [await client.start(f"Is reply {number} kept?", model) for number in range(3)]
        readings = [Transcript() for _ in sessions]
        reads = [
            asyncio.create_task(client.read(started["sessionId"], reading))
            for started, reading in zip(sessions, readings, strict=True)
        ]
        await eventually(lambda: all(len(reading.text) > 3 for reading in readings))
        await proxy.refuse()
        proxy.reset()
        await asyncio.wait_for(asyncio.gather(*reads), 60)
        assert [reading.end and reading.end["saved"] for reading in readings] == [False] * 3
        server.kill()
    _lapse(world)
    await _lost_lease(world)
    done = await world.purge(batch=1)
    assert (done.parked_saved, done.orphans_ended) == (3, 0)
    other = world.client(world.server())
    for started, reading in zip(sessions, readings, strict=True):
        reply = await other.reply(started)
        assert (reply["status"], text_of(reply)) == ("complete", reading.text)


async def test_45_a_reader_before_the_purge_gets_what_a_dead_process_parked(world: World) -> None:
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url, **LEASES)
        started, reading = await _unsaved(world, proxy, server)
        server.kill()
    _lapse(world)
    await _lost_lease(world)
    calls = world.fake.calls("row-45-parked")
    other = world.client(world.server(**LEASES))
    again = await other.read(started["sessionId"])
    assert again.text == reading.text
    assert again.end is not None
    assert (again.end["type"], again.end["saved"]) == ("done", True)
    assert world.fake.calls("row-45-parked") == calls
    # Whoever has all of it already sees nothing but the end.
    assert again.cursor == reading.cursor
    assert text_of(await other.reply(started)) == reading.text
    assert (await world.purge()).parked_saved == 0
    with redis.Redis.from_url(world.valkey_url) as valkey:
        assert valkey.hlen("parley:parked") == 0


async def test_45_the_writer_saves_it_once_the_database_is_back(world: World) -> None:
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url, PULSE_SECONDS="1")
        started, reading = await _unsaved(world, proxy, server)
        await proxy.heal()
        client = world.client(server)

        async def saved() -> bool:
            return bool((await client.reply(started))["status"] == "complete")

        await eventually(saved)
        assert text_of(await client.reply(started)) == reading.text
        # And takes it out of the parking place again.
        assert (await world.purge()).parked_saved == 0


@pytest.mark.parametrize("how", ["slow", "stalled", "half open", "reset", "cut"])
async def test_46_between_the_process_and_its_database(world: World, how: str) -> None:
    model = world.model(f"row-46-{how}", delay=0.05)
    prompt = f"Is the way {how}, and what if it is?"
    async with FaultProxy(world.database_url) as proxy:
        server = world.server(DATABASE_URL=proxy.url, DATABASE_TIMEOUT="2", **LEASES)
        client = world.client(server)
        # As many connections as there may be, to be broken.
        await asyncio.gather(*(client.get("/chat/list") for _ in range(16)))
        started = await client.start(prompt, model)
        reading = Transcript()
        reads = asyncio.create_task(client.read(started["sessionId"], reading))
        await eventually(lambda: len(reading.text) > 3)
        match how:
            case "slow":
                proxy.delay(0.1)
            case "stalled":
                proxy.stall()
                asyncio.get_running_loop().call_later(1.0, lambda: asyncio.ensure_future(proxy.heal()))
            case "half open":
                # Those who were connected hear nothing any more; new connections are fine.
                proxy.half_open()
                await proxy.heal()
            case "reset":
                proxy.reset()
            case _:
                proxy.cut()
        await asyncio.wait_for(reads, 60)
        assert reading.text == reply_to(prompt)
        assert "reset" not in reading.types()
        assert world.fake.calls(model) == 1
        if how != "half open":
            assert reading.end is not None
            assert reading.end["saved"] is True

        async def saved() -> bool:
            with contextlib.suppress(Refused):
                return text_of(await client.reply(started)) == reading.text
            return False

        await eventually(saved)
        assert (await client.ask(f"And is it {how} still?", model))[1].text


async def test_46_killed_connections_are_replaced_unseen(world: World) -> None:
    model = world.model("row-46", delay=0.01)
    client = world.client(world.server())
    started, _ = await client.ask("Load everything.", model)
    for _ in range(3):
        _cut_connections(world.database_url)
        await client.history(started["chatId"])
        _cut_connections(world.database_url)
        started = await client.start("Still there?", model)
        _cut_connections(world.database_url)
        reading = await client.read(started["sessionId"], upto=3)
        _cut_connections(world.database_url)
        await client.stop(started["sessionId"])
        _cut_connections(world.database_url)
        await client.read(started["sessionId"], reading)
        assert reading.end is None or reading.end["saved"] is True
    assert world.sql("select count(*) from sessions where state <> 'ended'") == [(0,)]


@contextlib.contextmanager
def _crowd(database_url: str) -> Iterator[list[psycopg.Connection]]:
    held: list[psycopg.Connection] = []
    try:
        while True:
            held.append(psycopg.connect(database_url, autocommit=True))
    except psycopg.OperationalError:
        yield held
    finally:
        for connection in held:
            connection.close()


async def test_47_too_many_connections_is_a_bounded_wait(own_postgres: Addresses) -> None:
    connections = Pool(own_postgres.database_url, size=1, timeout=2)
    with _crowd(own_postgres.database_url) as held:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await connections.run("select 1")
        assert time.monotonic() - begin > 1
        waits = asyncio.create_task(connections.run("select 1"))
        await asyncio.sleep(0.3)
        for connection in held[-5:]:
            connection.close()
        assert await waits == [(1,)]
    await connections.close()


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_47_deadlock_and_serialization_failure_are_tried_again(database_url: str, state: str) -> None:
    connections = Pool(database_url, size=1, timeout=5)
    await connections.run("create sequence tries")
    await connections.run(
        "create function third_time() returns int language plpgsql as $$ begin"
        " if nextval('tries') < 3 then raise exception 'again' using errcode = '" + state + "'; end if;"
        " return 1; end $$"
    )
    assert await connections.run("select third_time()") == [(1,)]
    await connections.close()


async def test_47_a_burst_of_equal_starts_is_one_turn(world: World) -> None:
    world.model("row-47")
    servers = [world.server(DATABASE_POOL_SIZE="8"), world.server(DATABASE_POOL_SIZE="8")]
    clients = [world.client(servers[number % 2]) for number in range(20)]
    answers = await asyncio.gather(*(client.start("Once?", "row-47", key="k") for client in clients))
    assert len({answer["sessionId"] for answer in answers}) == 1
    assert world.sql("select count(*) from messages") == [(2,)]


async def test_50_the_databases_clock_decides(world: World, tmp_path: Path) -> None:
    servers = []
    for name, seconds in {"fast": 3600, "slow": -3600}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            f"import time\n_time = time.time\ntime.time = lambda: _time() + {seconds}\n"
        )
        path = f"{folder}{os.pathsep}layers/common{os.pathsep}."
        servers.append(world.server(PYTHONPATH=path))
    fast, slow = (world.client(server) for server in servers)
    model = world.model("row-50", delay=0.03)
    for here, there in ((fast, slow), (slow, fast)):
        prompt = f"What time is it at {'fast' if here is fast else 'slow'}?"
        started = await here.start(prompt, model)
        reading = await there.read(started["sessionId"], upto=8)
        await here.read(started["sessionId"], reading)
        assert reading.text == reply_to(prompt)
        assert "reset" not in reading.types()
        _, hit = await there.ask(prompt, model)
        assert hit.source == "cache"
    assert world.fake.calls(model) == 2
    # Expired by the database's clock: gone for both; and not a second before.
    started = await fast.start("What expires?", model)
    world.sql(
        "update sessions set expires_at = now() - interval '1 second' where id = %s", started["sessionId"]
    )
    for client in (fast, slow):
        with pytest.raises(Refused) as refused:
            await client.read(started["sessionId"])
        assert refused.value.status == 410
