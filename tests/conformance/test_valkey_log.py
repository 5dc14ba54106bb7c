"""The log in Valkey, and what only a server can do to it."""

import time
from typing import Any

import pytest
import redis

from parley.domain.conversation import Reply
from parley.domain.ports import Log
from parley.domain.results import Flushed, Hit, ReaderCount, Write
from tests.conformance.backends import ValkeyLogStage
from tests.conformance.log_suite import NOBODY, STOP, LogSuite, elect, write

REPLY = Reply(1_795_391_262_123, "All", STOP)


class TestValkeyLog(LogSuite):
    @pytest.fixture
    def bare_stage(self, valkey_url: str) -> ValkeyLogStage:
        return ValkeyLogStage(valkey_url)

    @pytest.fixture
    def server(self, valkey_url: str) -> redis.Redis:
        return redis.Redis.from_url(valkey_url)

    async def test_entries_stand_where_the_cursors_point(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        await write(log, epoch, "é😀")
        await log.end("k", "writer", Reply(epoch, "é😀!", STOP), 2)
        entries: Any = server.xrange("test:{k}:log")
        assert [entry_id.decode() for entry_id, _ in entries] == [
            f"{epoch}-{place}" for place in (0, 2, 3, 4)
        ]

    async def test_everything_ends_by_itself(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        await log.stop("k", "s")
        await write(log, epoch, "All")
        names = ("log", "lease", "stops")
        running = {name: server.pttl(f"test:{{k}}:{name}") for name in names}
        assert 890_000 < running["log"] <= 900_000
        assert 9_000 < running["lease"] <= 10_000
        assert 890_000 < running["stops"] <= 900_000
        await log.end("k", "writer", Reply(epoch, "All", STOP), 3)
        assert 50_000 < server.pttl("test:{k}:log") <= 60_000
        assert 50_000 < server.pttl("test:{k}:done") <= 60_000
        assert all(server.ttl(key) > 0 for key in server.keys("*"))

    @pytest.mark.parametrize(
        "entry",
        [b"", b"x", b"9999999999999999999999 []", b"1795391262123 [0,", b'1795391262123 [99,"All",{}]',
         b'1795391262123 [1,"All",{"finish":"unheard-of","providerReason":null,"usage":null}]',
         b'1795391262123 [1,"All",{"finish":"stop"}]', b"\xff\xfe"],
    )  # fmt: skip
    async def test_a_corrupt_or_foreign_cache_entry_is_worth_nothing(
        self, log: Log, server: redis.Redis, entry: bytes
    ) -> None:
        server.set("test:{k}:done", entry)
        joined = await log.join("k", "s", "writer", epoch=0, may_create=True)
        assert isinstance(joined, Write)
        assert not server.exists("test:{k}:done")
        await log.end("k", "writer", Reply(joined.epoch, "All", STOP), 0)
        assert isinstance(await log.join("k", "s", "later", epoch=0, may_create=True), Hit)

    async def test_a_log_with_a_hole_is_no_log(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await write(log, epoch, "One ", "two ")
        await write(log, epoch, "One two ", "three")
        server.xdel("test:{k}:log", f"{epoch}-8")
        assert (await log.read("k", epoch, 0)).superseded
        assert (await log.read("k", epoch, 4)).superseded
        assert (await log.read("k", epoch, 8)).text == "three"

    async def test_a_corrupt_end_is_no_end(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        server.xadd("test:{k}:log", {"e": b"nonsense"}, id=f"{epoch}-1")
        assert (await log.read("k", epoch, 0)).superseded

    async def test_a_count_of_readers_ends_by_itself(self, log: Log, server: redis.Redis) -> None:
        await log.count_readers([ReaderCount("s", [("one", 0), ("two", 0)], [])], 8, 60)
        members: Any = server.zrange("test:{s}:readers", 0, -1, withscores=True)
        assert [member for member, _ in members] == [b"one", b"two"]
        assert abs(members[0][1] / 1000 - time.time()) < 60
        assert 50_000 < server.pttl("test:{s}:readers") <= 60_000
        await log.count_readers([ReaderCount("s", [], ["one", "two"])], 8, 60)
        assert server.keys("*") == []

    async def test_a_corrupt_count_of_readers_spoils_no_other(self, log: Log, server: redis.Redis) -> None:
        server.set("test:{bad}:readers", "nonsense")
        counts = [ReaderCount(session, [("one", 0)], []) for session in ("good", "bad", "another")]
        outcomes = await log.count_readers(counts, 8, 60)
        assert [outcome is None for outcome in outcomes] == [False, True, False]

    async def test_corrupt_parked_replies_are_dropped(self, log: Log, server: redis.Redis) -> None:
        await log.park("good", REPLY, "provider")
        for number, value in enumerate((b"", b"[]", b'["provider", 5]', b'["provider", "x"]')):
            server.hset("test:parked", f"bad {number}", value)
        assert await log.parked(10) == [("good", REPLY, "provider")]
        assert server.hkeys("test:parked") == [b"good"]

    async def test_many_parked_replies_come_a_batch_at_a_time(self, log: Log) -> None:
        for number in range(700):
            await log.park(f"session {number}", REPLY, "provider")
        found = 0
        while batch := await log.parked(100):
            assert len(batch) <= 100
            found += len(batch)
            for session_id, _, _ in batch:
                await log.unpark(session_id)
        assert found == 700

    async def test_prefixes_keep_installations_apart(self, stage: ValkeyLogStage, log: Log) -> None:
        await elect(log)
        await elect(stage.log(prefix="another"))
        assert await stage.log(prefix="another").stop("k", "s") == 0
        assert await write(log, await _epoch(log), "x") == Flushed(NOBODY, 1)


async def _epoch(log: Log) -> int:
    joined = await log.join("k", "s", "writer", epoch=0, may_create=True)
    assert isinstance(joined, Write)
    return joined.epoch
