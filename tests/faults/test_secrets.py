"""Prompts, replies, session ids and keys are in nothing that a server writes, whatever happens to it.

Every world of the harness looks for those of its own run when it ends; here they meet all that can go wrong.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
import redis

from local.embedded import EmbeddedStores
from local.seed import seed
from parley.postgres.migrate import migrate
from tests.client import Client, Refused, Transcript, eventually
from tests.faults.test_readers import LEASES
from tests.processes import Fake, Server
from tests.world import World

# In every prompt, reply, key, cursor and name that is sent, so that no part of them can hide.
MARK = "zqjxv"


def _as_clerk(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"clerk:{MARK}@{parts.hostname}:{parts.port}"))


@pytest.fixture
async def fragile(tmp_path: Path, fake: Fake) -> AsyncIterator[tuple[World, int]]:
    """Return a world with stores of its own and a password in both addresses, and its Valkey's process."""
    with EmbeddedStores(tmp_path / "own", volatile=True) as own:
        stores = own.wait()
        await migrate(stores.database_url)
        await seed(stores.database_url)
        with psycopg.connect(stores.database_url, autocommit=True) as connection:
            connection.execute(f"create role clerk superuser login password '{MARK}'")
        with redis.Redis.from_url(stores.valkey_url) as valkey:
            valkey.execute_command("acl", "setuser", "clerk", "on", f">{MARK}", "~*", "&*", "+@all")
        database_url, valkey_url = map(_as_clerk, (stores.database_url, stores.valkey_url))
        world = World(tmp_path, database_url, valkey_url, fake)
        world.secrets.words.add(MARK)
        yield world, stores.valkey_pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(stores.valkey_pid, signal.SIGCONT)
        await world.close()


def _server(world: World) -> Server:
    """Return a server that says all it can, and whose libraries do."""
    return world.fresh_server(
        LOG_LEVEL="DEBUG", OPENAI_LOG="debug", ANTHROPIC_LOG="debug", PYTHONASYNCIODEBUG="1",
        OPENAI_API_KEY=f"sk-{MARK}", ANTHROPIC_API_KEY=f"sk-ant-{MARK}", KEY_SECRET=MARK * 8,
        DATABASE_TIMEOUT="1", **LEASES,
    )  # fmt: skip


async def _ask_in_vain(client: Client) -> None:
    """Send what is refused, each time with something of the user's in the place that is wrong."""
    good = {"prompt": f"{MARK} prompt", "modelId": "demo", "userId": client.user}
    for body in (
        {**good, "modelId": f"{MARK}-model"}, {**good, "chatId": f"{MARK}-chat"},
        {**good, "userId": MARK * 50}, {**good, "prompt": [MARK]}, {**good, "prompt": MARK * 100_000},
        {**good, "prompt": f"{MARK}\0"}, {**good, "regenerate": MARK}, {"sessionId": f"{MARK}-session"},
    ):  # fmt: skip
        for path in ("/chat/start", "/chat/stop"):
            assert (await client.http.post(path, json=body)).status_code in (400, 404, 413)
    json_type = {"content-type": "application/json"}
    for content in (MARK.encode(), b'{"prompt": "' + MARK.encode(), b"\xff" + MARK.encode()):
        response = await client.http.post("/chat/start", content=content, headers=json_type)
        assert response.status_code == 400
    for path in ("/chat/stream", "/chat/history", "/chat/list", f"/{MARK}"):
        params = {"sessionId": f"{MARK}-s", "chatId": MARK, "userId": MARK, "before": MARK, "limit": MARK}
        assert (await client.http.get(path, params=params)).status_code in (400, 404)


async def test_nothing_that_a_server_writes_tells_on_its_users(fragile: tuple[World, int]) -> None:
    world, valkey_pid = fragile
    server, other = _server(world), _server(world)
    here, there = world.client(server), world.client(other)
    tokens = [f"{MARK} reply ", f"{MARK} goes ", f"{MARK} on."]
    await asyncio.gather(_ask_in_vain(here), _ask_in_vain(there))

    # What a model does right and wrong.
    faults = ("cut", "error", "reset", "json", "utf8", "sse", "type")
    scripts: list[dict[str, Any]] = [
        {}, {"finish": "length"}, {"finish": "content_filter"}, {"tokens": []}, {"status": 400},
        {"status": 401}, {"status": 429}, {"status": 529}, {"fault": "hangup"}, {"fault": "html"},
        *({"fault": fault, "fault_after": 2} for fault in faults),
    ]  # fmt: skip
    for wire in ("openai", "anthropic"):
        models = [
            world.model(
                f"secret-{wire}-{number}", wire, **{"tokens": tokens, "error_message": f"{MARK}!"} | script
            )
            for number, script in enumerate(scripts)
        ]
        results = await asyncio.gather(*(here.ask(f"{MARK}, {model}?", model) for model in models))
        assert {reading.types()[-1] for _, reading in results} == {"done", "error"}

    # Readers that come and go, a stop, and a cursor that is none.
    slow = world.model("secret-slow", tokens=tokens, count=60, delay=0.05)
    started = await here.start(f"{MARK}, slowly", slow, key=f"{MARK}-key")
    with pytest.raises(Refused) as refused:
        await here.start(f"{MARK}, otherwise", slow, key=f"{MARK}-key")
    assert refused.value.status == 409
    reading = await here.read(started["sessionId"], upto=20)
    await there.read(started["sessionId"], reading, upto=40)
    junk = Transcript()
    junk.cursor = MARK
    await there.read(started["sessionId"], junk, upto=10)
    await there.stop(started["sessionId"])

    # A corrupt cache, then a database that refuses a row and says which: a bug, as far as anybody knows.
    await here.ask(f"{MARK}, again", world.model("secret-cached", tokens=tokens))
    with redis.Redis.from_url(world.valkey_url) as valkey:
        for name in valkey.keys("*:done"):
            valkey.set(name, f"{MARK} is no reply")
    await here.ask(f"{MARK}, again", world.model("secret-cached"))
    world.sql(
        "alter table messages add constraint broken check (position('trips' in parts::text) = 0) not valid"
    )
    for client in (here, there):
        response = await client.http.post(
            "/chat/start", json={"prompt": f"{MARK} trips", "modelId": "demo", "userId": client.user}
        )
        assert response.status_code == 500
    world.model("secret-trips", tokens=[MARK, " trips"])
    _, tripped = await here.ask(f"{MARK}, a reply that cannot be stored", "secret-trips")
    assert tripped.end is not None
    assert tripped.end["saved"] is False
    world.sql("alter table messages drop constraint broken")

    # The stores go away in the middle, and a process does.
    started = await here.start(f"{MARK}, in the dark", slow)
    reading, followed = Transcript(), Transcript()
    reads = asyncio.create_task(here.read(started["sessionId"], reading))
    follows = asyncio.create_task(there.read(started["sessionId"], followed))
    await eventually(lambda: len(followed.text) > 3)
    os.kill(valkey_pid, signal.SIGSTOP)
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'parley'"
        )
    await asyncio.gather(reads, follows)
    os.kill(valkey_pid, signal.SIGCONT)
    started = await here.start(f"{MARK}, to be killed", slow)
    doomed = Transcript()
    with contextlib.suppress(httpx.HTTPError):
        async for _ in here.events(started["sessionId"], doomed):
            if len(doomed.text) > 5:
                server.kill()
    await there.read(started["sessionId"], doomed)
    await world.purge()
    assert other.terminate() in (0, -signal.SIGTERM)

    said = server.output() + other.output()
    # All of that was told of, in the words that an operator knows.
    for word in (
        "reply_ended", "provider_fault", "log_unavailable", "request_broke", "run_broke", "provider_failed",
        "provider_refused", "provider_error_event",
    ):  # fmt: skip
        assert f'"{word}"' in said, word
    assert MARK not in said
    assert not [session for session in world.secrets.sessions if session in said]
    # And in one way: each line of standard output is a JSON object.
    for line in server.out.read_text().splitlines():
        assert json.loads(line)["message"]
    world.secrets.check(world.servers)
