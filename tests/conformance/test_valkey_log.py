"""The log in Valkey, and what only a server can do to it."""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.domain.results import Append, Fenced, Flushed, Follow, Hit, ReaderCount, Slice, Write
from parley.valkey.macs import Macs
from tests.conformance.backends import MACS, SECRET, ValkeyLogStage
from tests.conformance.log_suite import NOBODY, STOP, STOPPED, LogSuite, elect, rest, write

REPLY = Reply(1_795_391_262_123, "All", STOP)
GONE = Slice("", None, False, True, NOBODY)


def _entry(server: redis.Redis, epoch: int, position: int) -> dict[bytes, bytes]:
    [[_, fields]] = cast("Any", server.xrange("test:{k}:log", f"{epoch}-{position}", f"{epoch}-{position}"))
    return cast("dict[bytes, bytes]", fields)


def _rewrite(server: redis.Redis, epoch: int, change: Callable[[list[Any]], object]) -> None:
    """Write the log again with its entries changed: an entry can only be appended."""
    rows = [[entry_id, fields] for entry_id, fields in cast("Any", server.xrange("test:{k}:log"))]
    change(rows)
    server.delete("test:{k}:log")
    for entry_id, fields in rows:
        server.xadd("test:{k}:log", fields, id=entry_id)


def _append(server: redis.Redis, epoch: int, position: int, text: str) -> None:
    """Put a text in the place of an entry, and leave that one's MAC."""
    name = f"{epoch}-{position}".encode()

    def change(rows: list[Any]) -> None:
        [row] = [row for row in rows if row[0] == name]
        row[1] = row[1] | {b"t": text.encode()}

    _rewrite(server, epoch, change)


def _move(server: redis.Redis, epoch: int) -> None:
    """Put the second text in the place of the first; both have four characters."""
    second = _entry(server, epoch, 8)
    _rewrite(server, epoch, lambda rows: rows[1].__setitem__(1, second))


def _from_elsewhere(server: redis.Redis, epoch: int, key: str, of: int) -> None:
    """Put the text that another generation, or another epoch, has in that place there."""
    text = b"Lie "
    mac = MACS.make(b"t", key, of, 4, text)
    _rewrite(server, epoch, lambda rows: rows[1].__setitem__(1, {b"t": text, b"m": mac}))


def _as_before(server: redis.Redis, epoch: int) -> None:
    """Take the MACs away, as the release before wrote its entries."""

    def change(rows: list[Any]) -> None:
        for _, fields in rows:
            fields.pop(b"m", None)

    _rewrite(server, epoch, change)


# What somebody who can write to the server does to a log of two texts at 4 and 8.
CHANGES: dict[str, Callable[[redis.Redis, int], None]] = {
    "a changed text": lambda server, epoch: _append(server, epoch, 4, "Lie "),
    "a longer text": lambda server, epoch: _append(server, epoch, 8, "One lie "),
    "a text that was moved": _move,
    "a text of another generation": lambda server, epoch: _from_elsewhere(server, epoch, "j", epoch),
    "a text of another epoch": lambda server, epoch: _from_elsewhere(server, epoch, "k", epoch - 1),
    "entries of the release before": _as_before,
}


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
        # With a MAC, as another version of the installation would write it.
        server.set("test:{k}:done", entry + MACS.make(b"done", "k", 0, 0, entry))
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

    async def test_a_log_whose_last_text_is_missing_has_no_end(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await log.end("k", "writer", Reply(epoch, "One two", STOPPED), 4)
        server.xdel("test:{k}:log", f"{epoch}-7")
        assert (await log.read("k", epoch, 0)).superseded

    async def test_a_corrupt_end_is_no_end(self, log: Log, server: redis.Redis) -> None:
        epoch = await elect(log)
        mac = MACS.make(b"e", "k", epoch, 1, b"nonsense")
        server.xadd("test:{k}:log", {"e": b"nonsense", "m": mac}, id=f"{epoch}-1")
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
            mac = MACS.make(b"parked", f"bad {number}", 0, 0, value)
            server.hset("test:parked", f"bad {number}", value + mac)
        assert await log.parked(10) == [("good", REPLY, "provider")]
        assert server.hkeys("test:parked") == [b"good"]

    # -- written by another hand ------------------------------------------------------------------

    @pytest.mark.parametrize("change", sorted(CHANGES))
    @pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
    async def test_an_epoch_with_an_entry_of_another_hand_counts_as_gone(
        self, stage: ValkeyLogStage, log: Log, server: redis.Redis, change: str, ended: bool
    ) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await write(log, epoch, "One ", "two ")
        if ended:
            await log.end("k", "writer", Reply(epoch, "One two three", STOPPED), 8)
        CHANGES[change](server, epoch)
        assert (await log.read("k", epoch, 0)) == GONE
        other = stage.log()
        # Where the store knows a process that has the session, that one saves the reply.
        assert await other.join("k", "s", "s", epoch=epoch, may_create=False, read=True) == Follow(epoch)
        joined = await other.join("k", "reader", "reader", epoch=epoch, may_create=True, read=True)
        if ended:
            # Nobody else would ever end it: the one who cannot read it asks anew.
            assert isinstance(joined, Write)
            assert joined.epoch > epoch
        else:
            # Its writer lives, and saves what it wrote.
            assert joined == Follow(epoch)

    async def test_what_another_hand_wrote_hides_no_text_before_the_position(
        self, log: Log, server: redis.Redis
    ) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await write(log, epoch, "One ", "two ")
        _append(server, epoch, 4, "One!")
        assert (await log.read("k", epoch, 0)) == GONE
        assert await log.read("k", epoch, 4) == rest("two ")

    async def test_an_end_of_another_hand_ends_nothing(
        self, stage: ValkeyLogStage, log: Log, server: redis.Redis
    ) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        end = b'{"finish":"stop","providerReason":null,"usage":null}'
        server.xadd("test:{k}:log", {"e": end, "m": bytes(16)}, id=f"{epoch}-5")
        assert (await log.read("k", epoch, 0)) == GONE
        # It keeps the writer out, as anybody can who may write to the server. The reply is written anew.
        assert await write(log, epoch, "One ", "two ") == Fenced()
        joined = await stage.log().join("k", "s", "later", epoch=epoch, may_create=True, read=True)
        assert isinstance(joined, Write)
        assert joined.epoch > epoch

    async def test_a_cached_reply_of_another_hand_is_a_miss_and_deleted(
        self, log: Log, server: redis.Redis
    ) -> None:
        other = await elect(log, key="other")
        await log.end("other", "writer", Reply(other, "Another", STOP), 0)
        epoch = await elect(log)
        await log.end("k", "writer", Reply(epoch, "All", STOP), 0)
        mine, theirs = server.get("test:{k}:done"), server.get("test:{other}:done")
        assert isinstance(mine, bytes)
        assert isinstance(theirs, bytes)
        without_mac = mine[:-16]
        for value in (theirs, without_mac, without_mac.replace(b"All", b"Lie") + mine[-16:], b"1" + mine):
            server.set("test:{k}:done", value)
            assert await log.cached("k") is None
            assert not server.exists("test:{k}:done")
            server.delete("test:{k}:log")
            server.set("test:{k}:done", value)
            assert await log.read("k", epoch, 0) == GONE
            server.set("test:{k}:done", value)
            assert isinstance(await log.join("k", "s", "x", epoch=0, may_create=True), Write)
            assert not server.exists("test:{k}:done")
            server.delete("test:{k}:log", "test:{k}:lease")
        server.set("test:{k}:done", mine)
        assert await log.cached("k") == Reply(epoch, "All", STOP)

    async def test_a_reply_that_another_hand_parked_is_dropped_with_a_line(
        self, log: Log, server: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        await log.park("good", REPLY, "provider")
        good: Any = server.hget("test:parked", "good")
        # For another session, with another text, from another source, without a MAC, for no text at all.
        server.hset("test:parked", "other", good)
        server.hset("test:parked", "text", good.replace(b"All", b"Lie"))
        server.hset("test:parked", "source", good.replace(b"provider", b"joined"))
        server.hset("test:parked", "old", good[:-16])
        server.hset("test:parked", b"\xff", good)
        assert await log.parked(10) == [("good", REPLY, "provider")]
        assert server.hkeys("test:parked") == [b"good"]
        assert [record.getMessage() for record in caplog.records] == ["parked_reply_dropped"] * 5

    async def test_a_sessions_parked_reply_of_another_hand_is_dropped_with_a_line(
        self, log: Log, server: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        await log.park("good", REPLY, "provider")
        good: Any = server.hget("test:parked", "good")
        for forged in (good, good[:-16], b""):
            server.hset("test:parked", "s", forged)
            assert await log.parked_of("s") is None
        assert server.hkeys("test:parked") == [b"good"]
        assert [record.getMessage() for record in caplog.records] == ["parked_reply_dropped"] * 3

    async def test_parked_replies_of_another_hand_hide_no_other(self, log: Log, server: redis.Redis) -> None:
        for number in range(5):
            server.hset("test:parked", f"bad {number}", "nonsense")
        await log.park("good", REPLY, "provider")
        assert await log.parked(1) == [("good", REPLY, "provider")]

    async def test_a_place_for_parked_replies_that_can_hold_none_is_made_anew(
        self, log: Log, server: redis.Redis
    ) -> None:
        for _ in range(2):
            server.set("test:parked", "nonsense")
            assert await log.parked(10) == []
            server.set("test:parked", "nonsense")
            assert await log.parked_of("s") is None
            server.set("test:parked", "nonsense")
            await log.park("s", REPLY, "provider")
            assert await log.parked_of("s") == (REPLY, "provider")

    @pytest.mark.parametrize("epoch", [2**53 + 2, 2**62, 2**63 + 2**20, 2**64 - 1])
    @pytest.mark.parametrize("leased", [False, True])
    async def test_an_epoch_that_no_store_takes_is_no_log(
        self, log: Log, server: redis.Redis, epoch: int, leased: bool
    ) -> None:
        server.xadd("test:{k}:log", {"o": "x"}, id=f"{epoch}-0")
        if leased:
            server.set("test:{k}:lease", "x")
        for read in (False, True):
            with pytest.raises(LogUnavailable):
                await log.join("k", "s", "owner", epoch=0, may_create=True, read=read)
        with pytest.raises(LogUnavailable):
            await log.read("k", epoch, 0)

    async def test_a_rotated_key_secret_loses_nothing(self, stage: ValkeyLogStage) -> None:
        before = stage.log()
        epoch = await elect(before)
        await before.end("k", "writer", Reply(epoch, "All", STOP), 0)
        running = await elect(before, key="running")
        [_] = await before.flush([Append("running", running, "writer", 3, "One", ["One"])])
        await before.park("s", REPLY, "provider")
        after = stage.log(macs=Macs("another secret, which is as long as it must be", SECRET))
        assert await after.cached("k") == Reply(epoch, "All", STOP)
        assert await after.read("running", running, 0) == rest("One")
        assert await after.parked(10) == [("s", REPLY, "provider")]
        stranger = stage.log(macs=Macs("another secret, which is as long as it must be"))
        assert await stranger.read("running", running, 0) == GONE
        assert await stranger.cached("k") is None

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
