"""The user of the stack's Valkey may do what Parley does, on the keys of its prefix, and nothing else."""

import asyncio
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis.exceptions import NoPermissionError

from local.embedded import Addresses, EmbeddedStores
from local.fake_provider import reply_to
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.settings import Settings
from parley.valkey import scripts
from parley.valkey.log import ValkeyLog
from parley.valkey.scripts import Script
from tests.client import Transcript, eventually, text_of
from tests.conformance.backends import MACS, ValkeyLogStage
from tests.conformance.log_suite import LogSuite, check_parked_replies_and_probes
from tests.deploy.templates import load
from tests.processes import Fake
from tests.world import World

RULES = str(load()["Resources"]["CacheUser"]["Properties"]["AccessString"])
PREFIX = Settings().valkey_prefix
PASSWORD = uuid.uuid4().hex


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A Valkey of this module's own: users belong to a server, and the stack's has one database."""
    folder = tmp_path_factory.mktemp("user") / "own-valkey"
    with EmbeddedStores(folder, postgres=False, volatile=True) as stores:
        yield stores.wait()


@pytest.fixture
def admin(own: Addresses) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own.valkey_url) as server:
        server.flushall()
        server.execute_command("ACL", "SETUSER", "parley", "reset", *RULES.split(), f">{PASSWORD}")
        yield server


@pytest.fixture
def user_url(own: Addresses, admin: redis.Redis) -> str:
    return f"redis://parley:{PASSWORD}@{urlsplit(own.valkey_url).netloc.rpartition('@')[2]}/0"


class UserStage(ValkeyLogStage):
    """Logs of the stack's user, on the keys of its prefix. What it loses, somebody else deletes."""

    def __init__(self, url: str, admin_url: str) -> None:
        super().__init__(url, PREFIX)
        self._admin_url = admin_url

    async def lose(self) -> None:
        async with redis.asyncio.Redis.from_url(self._admin_url) as server:
            await server.flushdb()


class TestLogOfTheStacksUser(LogSuite):
    @pytest.fixture
    def bare_stage(self, user_url: str, own: Addresses) -> UserStage:
        return UserStage(user_url, own.valkey_url)

    async def test_parked_replies_and_probes_are_of_the_user_too(self, log: Log) -> None:
        await check_parked_replies_and_probes(log)


async def test_the_product_works_as_the_stacks_user(
    tmp_path: Path, demo_database_url: str, user_url: str, fake: Fake
) -> None:
    world = World(tmp_path, demo_database_url, user_url, fake)
    model = world.model("stack-user", delay=0.03)
    servers = [world.server(), world.server()]
    here, there = (world.client(server) for server in servers)
    started = await here.start("Who may write this?", model)
    reading, elsewhere = Transcript(), Transcript()
    reads = asyncio.create_task(here.read(started["sessionId"], reading))
    await eventually(lambda: len(reading.text) > 3)
    await there.read(started["sessionId"], elsewhere)
    await reads
    assert reading.text == elsewhere.text == reply_to("Who may write this?")
    assert world.fake.calls(model) == 1
    _, cached = await there.ask("Who may write this?", model)
    assert cached.source == "cache"
    stopped = await here.start("Who may stop this?", world.model("stack-user-slow", count=500, delay=0.05))
    partial = Transcript()
    await here.read(stopped["sessionId"], partial, upto=5)
    await there.stop(stopped["sessionId"])

    async def saved() -> bool:
        return bool((await here.reply(stopped))["status"] == "stopped")

    await eventually(saved)
    assert text_of(await here.reply(stopped))
    await world.purge()
    said = "".join(server.output() for server in servers)
    assert "log_refused" not in said
    assert "log_unavailable" not in said
    await world.close()


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *", "SCAN 0", "FLUSHALL", "FLUSHDB", "CONFIG GET maxmemory", "CONFIG SET maxmemory 1",
        "ACL LIST", "ACL SETUSER parley +@all", "CLIENT LIST", "CLIENT KILL TYPE normal",
        "MONITOR", "SCRIPT FLUSH", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "INFO", "SELECT 1",
        "GET another", "SET another x", "HSCAN another 0", "XRANGE another - +", "SMEMBERS another",
        "PUBLISH another x", "SUBSCRIBE another", "PSUBSCRIBE *",
    ],
)  # fmt: skip
def test_the_stacks_user_may_do_nothing_else(user_url: str, command: str) -> None:
    with redis.Redis.from_url(user_url) as user, pytest.raises(NoPermissionError):
        user.execute_command(*command.split())


async def test_a_script_of_the_user_reaches_no_other_prefix(user_url: str, admin: redis.Redis) -> None:
    stranger = ValkeyLog(user_url, macs=MACS, prefix="another", timeout=5, lease_seconds=5, cache_seconds=60)
    own = ValkeyLog(user_url, macs=MACS, prefix=PREFIX, timeout=5, lease_seconds=5, cache_seconds=60)
    await own.join("k", "s", "writer", epoch=0, may_create=True)
    before = sorted(admin.keys("*"))
    with pytest.raises(LogUnavailable):
        await stranger.join("k", "s", "writer", epoch=0, may_create=True)
    assert sorted(admin.keys("*")) == before
    await own.close()
    await stranger.close()


def test_the_user_has_no_command_that_the_code_does_not_call() -> None:
    called = {
        "get",
        "set",
        "del",
        "hset",
        "hget",
        "hscan",
        "hdel",
        "subscribe",
        "unsubscribe",
        "evalsha",
        "script|load",
    }
    for value in vars(scripts).values():
        if isinstance(value, Script):
            called |= {name.lower() for name in re.findall(r"redis\.call\(\s*'(\w+)'", value.source)}
    granted = [rule for rule in RULES.split() if rule.startswith("+")]
    assert sorted(granted) == sorted(f"+{name}" for name in called)
    assert [rule for rule in RULES.split() if not rule.startswith("+")] == [
        "on", f"~{PREFIX}:*", f"&{PREFIX}:*", "-@all",
    ]  # fmt: skip
