"""The purge and the migrations, twice at once and killed half way: rows 24, 48, 49 of the faults."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from local.fake_provider import reply_to
from parley.postgres.migrate import migrate, pending
from parley.postgres.prepared import Row
from tests.client import Refused, Transcript, eventually, text_of
from tests.faults.test_readers import LEASES
from tests.world import World


def _python(script: str) -> "subprocess.Popen[bytes]":
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": f"{root / 'layers' / 'common'}{os.pathsep}{root}"}
    return subprocess.Popen([sys.executable, "-c", script], env=env, cwd=root)


async def test_24_a_user_disabled_while_streaming_is_cut(world: World) -> None:
    model = world.model("row-24", count=1000, delay=0.05)
    client = world.client(world.server(**LEASES))
    started = await client.start("Am I still welcome?", model)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    world.sql("update users set disabled_at = now() where id = 'demo-pro'")
    await asyncio.wait_for(reads, 60)
    assert reading.end is not None
    assert reading.end["code"] == "user_disabled"
    with pytest.raises(Refused) as refused:
        await client.start("And now?", model)
    assert refused.value.status == 403


async def test_48_expired_sessions_go_and_live_ones_stay(world: World) -> None:
    model = world.model("row-48", delay=0.05)
    client = world.client(world.server())
    ended, _ = await client.ask("Has it ended?", model)
    waiting = await client.start("Does it wait?", model)
    forgotten = await client.start("Is it forgotten?", model)
    endless = world.model("row-48-endless", fault="stall", fault_after=2)
    live = await client.start("Does it live?", endless)
    reading = Transcript()
    reads = asyncio.create_task(client.read(live["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    world.sql(
        "update sessions set expires_at = now() - interval '1 second' where id = any(%s)",
        [ended["sessionId"], forgotten["sessionId"], live["sessionId"]],
    )
    results = await asyncio.gather(*(world.purge(batch=1) for _ in range(4)))
    assert sum(result.sessions_expired for result in results) == 1
    assert sum(result.sessions_deleted for result in results) >= 1
    await world.purge()
    left = {row[0] for row in world.sql("select id from sessions")}
    assert left == {waiting["sessionId"], live["sessionId"]}
    assert (await client.reply(forgotten))["status"] == "failed"
    await client.stop(live["sessionId"])
    await reads
    assert reply_to("Does it live?").startswith(reading.text)
    assert text_of(await client.reply(live)) == reading.text
    assert reading.end is not None
    assert (reading.end["finishReason"], reading.end["saved"]) == ("stopped", True)


async def test_48_an_orphan_is_ended_with_what_its_log_has(world: World) -> None:
    model = world.model("row-48-orphan", count=300, delay=0.05)
    server = world.server(**LEASES)
    client = world.client(server)
    started = await client.start("Who ends this?", model)
    reading = await client.read(started["sessionId"], upto=10)
    await asyncio.sleep(0.2)
    server.kill()
    assert (await world.purge()).orphans_ended == 0

    async def orphaned() -> bool:
        return (await world.purge()).orphans_ended == 1

    await eventually(orphaned)
    reply = await world.client(world.server()).reply(started)
    assert reply["status"] == "failed"
    assert reply["errorCode"] == "interrupted"
    assert text_of(reply).startswith(reading.text)


async def test_48_old_chats_go_where_that_is_wanted(world: World) -> None:
    client = world.client(world.server())
    started, _ = await client.ask("Is it old?", world.model("row-48-old"))
    assert (await world.purge(days=30)).chats_deleted == 0
    world.sql("update chats set updated_at = now() - interval '31 days'")
    assert (await world.purge()).chats_deleted == 0
    assert (await world.purge(days=30)).chats_deleted == 1
    with pytest.raises(Refused) as refused:
        await client.history(started["chatId"])
    assert refused.value.status == 404


async def test_48_killed_half_way_the_purge_goes_on_next_time(world: World) -> None:
    world.sql(
        "insert into chats (id, owner_id, title, model_id)"
        " select 'chat-' || n, 'demo-pro', 't', 'demo' from generate_series(1, 20000) n"
    )
    world.sql(
        "insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate, state,"
        " request_hash, expires_at)"
        " select 'session-' || n, 'demo-pro', 'chat-' || n, 'm', 'r', 'demo', false, 'ended', '',"
        " now() - interval '1 hour' from generate_series(1, 20000) n"
    )
    script = (
        "import asyncio\n"
        "from tests.world import run_purge\n"
        f"asyncio.run(run_purge({world.database_url!r}, {world.valkey_url!r}))\n"
    )
    process = _python(script)
    deadline = time.monotonic() + 60
    while world.sql("select count(*) from sessions")[0][0] > 19000:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What it had asked for last may still be carried out.
    mine = "from pg_stat_activity where datname = current_database() and application_name = 'parley'"
    await eventually(lambda: world.sql(f"select count(*) {mine}") == [(0,)])
    [[left]] = world.sql("select count(*) from sessions")
    assert 0 < left < 20000
    assert (await world.purge()).sessions_deleted == left
    assert (await world.purge()).sessions_deleted == 0


async def test_49_migrations_run_once_however_often_they_are_started(own_empty_database: str) -> None:
    results = await asyncio.gather(*(migrate(own_empty_database) for _ in range(4)))
    assert sorted(name for names in results for name in names) == pending(set())
    assert await migrate(own_empty_database) == []


async def test_49_a_migration_that_fails_leaves_nothing(own_empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("create table first (id int)")
    broken = "create table second (id int); insert into second values (1); select 1 / 0"
    (tmp_path / "0002_second.sql").write_text(broken)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(own_empty_database, tmp_path)
    with psycopg.connect(own_empty_database) as connection:
        assert connection.execute("select to_regclass('first') is not null").fetchone() == (True,)
        assert connection.execute("select to_regclass('second') is null").fetchone() == (True,)
    (tmp_path / "0002_second.sql").write_text("create table second (id int)")
    assert await migrate(own_empty_database, tmp_path) == ["0002_second.sql"]


# What the code before the rules were Python's runs.
_BEFORE = (
    "select * from begin_session('demo-pro', false, 'Older?', 'fake', %s, false, null, 'hash', 'Older?',"
    " %s, %s, %s, %s, 600, null, null)"
)


async def test_49_yesterdays_code_works_on_todays_schema(world: World) -> None:
    session = "older-session".ljust(32, "-")

    def start(chat: str | None, name: str) -> Row:
        ids = [f"{name}-session".ljust(32, "-"), *(f"{name}-{what}" for what in ("chat", "message", "reply"))]
        rows: list[Row] = world.sql(_BEFORE, chat, *ids)
        return rows[0]

    assert start(None, "older")[:5] == (
        "started", session, "older-chat", "older-message", "older-reply",
    )  # fmt: skip
    assert start("older-chat", "busy")[:2] == ("busy", session)
    world.limit(requests_per_minute=1)
    limited = start(None, "limited")
    assert limited[0] == "limit_requests"
    assert (0 < limited[6] <= 60, limited[7:10]) == (True, (0, None, None))
    world.limit()
    # Today's code sees what yesterday's began, and carries it on.
    client = world.client(world.server())
    with pytest.raises(Refused) as refused:
        await client.start("And now?", chatId="older-chat")
    assert refused.value.error["activeSessionId"] == session
    assert (await client.read(session)).text == reply_to("Older?")
    _, reading = await client.ask("And now?", chatId="older-chat")
    assert reading.text == reply_to("And now?")


async def test_49_yesterdays_and_todays_code_pass_no_limit_together(world: World) -> None:
    world.limit(concurrent_streams=3)
    model = world.model("row-49-both")
    client = world.client(world.server())

    def before(number: int) -> bool:
        ids = [f"{what}-{number}" for what in ("session", "chat", "message", "reply")]
        return bool(world.sql(_BEFORE, None, *ids)[0][0] == "started")

    async def today(number: int) -> bool:
        try:
            return bool(await client.start(f"Number {number}?", model))
        except Refused as refused:
            return refused.error.get("limit") != "streams"

    outcomes = await asyncio.gather(
        *(asyncio.to_thread(before, number) for number in range(8)), *(today(number) for number in range(8))
    )
    assert sum(outcomes) == 3
    assert world.sql("select count(*) from sessions") == [(3,)]


async def test_49_todays_code_works_on_a_later_schema(world: World) -> None:
    # What a later migration may do while this code still runs: add tables, columns with defaults, indexes.
    for table in ("users", "models", "plans", "chats", "sessions"):
        world.sql(f"alter table {table} add column role text not null default ''")
    for table in ("users", "models", "plans", "chats", "messages", "sessions"):
        world.sql(f"alter table {table} add column later text not null default ''")
        world.sql(f"alter table {table} add column version text not null default ''")
    client = world.client(world.server())
    model = world.model("row-49")
    started, reading = await client.ask("Is it later?", model)
    assert text_of(await client.reply(started)) == reading.text == reply_to("Is it later?")
    known = await client.start("Is it later?", model)
    assert text_of(await client.reply(known)) == reading.text
    await client.get("/chat/list")
    await client.get("/chat/models")
    await world.purge()
