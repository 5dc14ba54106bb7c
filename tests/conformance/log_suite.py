"""What every `ports.Log` must do; each test file runs it on one."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import pytest

from parley.domain.conversation import Reply
from parley.domain.events import Completed, End, Failed, FinishReason, Usage
from parley.domain.ports import Log
from parley.domain.results import Append, Fenced, Flushed, Follow, Hit, ReaderCount, Slice, Wait, Write
from parley.support.wakeup import Wakeup

LEASE = 0.15
STOP = Completed(FinishReason.STOP, "end_turn", Usage(3, 4))
STOPPED = Completed(FinishReason.STOPPED)
FAILED = Failed("provider_overloaded", "Busy.", retryable=True, retry_after_ms=1500)
TEXT = "é😀\u2028\r\n\1 </script>"
NOBODY: frozenset[str] = frozenset()


class LogStage(Protocol):
    """Makes logs that share their data, as several processes do."""

    def log(self, *, lease_seconds: float = 10, cache_seconds: int = 60) -> Log: ...

    async def lose(self) -> None:
        """Forget every generation that runs."""
        ...

    async def close(self) -> None: ...


async def elect(log: Log, session_id: str = "s", owner: str = "writer", key: str = "k") -> int:
    """Begin a generation; return its epoch."""
    joined = await log.join(key, session_id, owner, epoch=0, may_create=True)
    assert isinstance(joined, Write)
    assert not joined.takeover
    return joined.epoch


async def follow(log: Log, session_id: str = "reader", key: str = "k") -> int:
    """Join a generation that somebody writes; return its epoch."""
    joined = await log.join(key, session_id, f"would-be {session_id}", epoch=0, may_create=True)
    assert isinstance(joined, Follow)
    return joined.epoch


async def write(log: Log, epoch: int, *pieces: str, owner: str = "writer") -> Flushed | Fenced:
    """Flush the last of the pieces, as a writer does that flushed the others before."""
    whole = "".join(pieces)
    [outcome] = await log.flush([Append("k", epoch, owner, len(whole), pieces[-1], pieces)])
    assert outcome is not None
    return outcome


async def count(
    log: Log, *here: str, arrivals: dict[str, int] | None = None, left: Sequence[str] = (), limit: int = 2
) -> list[str]:
    """Tell a log of the readers here and of those who left; return who stays, and note their arrivals."""
    known = arrivals if arrivals is not None else {}
    told = ReaderCount("s", [(reader, known.get(reader, 0)) for reader in here], left)
    [outcome] = await log.count_readers([told], limit, 60)
    assert outcome is not None
    found = dict(zip(here, outcome, strict=True))
    known |= found
    return [reader for reader, arrival in found.items() if arrival]


def rest(text: str, end: End | None = None, *, alive: bool = True, stops: frozenset[str] = NOBODY) -> Slice:
    return Slice(text, end, alive, False, stops)


async def check_parked_replies_and_probes(log: Log) -> None:
    """Park, find and unpark a reply: its key, and the probe's, are no generation's."""
    reply = Reply(1_795_391_262_123, "All", STOP)
    await log.check()
    await log.park("s", reply, "provider")
    assert await log.parked(10) == [("s", reply, "provider")]
    await log.unpark("s")
    assert await log.parked(10) == []


class LogSuite:
    """Subclasses make the stage."""

    @pytest.fixture
    def bare_stage(self) -> LogStage:
        raise NotImplementedError

    @pytest.fixture
    async def stage(self, bare_stage: LogStage) -> AsyncIterator[LogStage]:
        yield bare_stage
        await bare_stage.close()

    @pytest.fixture
    def log(self, stage: LogStage) -> Log:
        return stage.log()

    @pytest.fixture
    def other(self, stage: LogStage) -> Log:
        return stage.log()

    @pytest.fixture
    def hasty(self, stage: LogStage) -> Log:
        """A log whose leases run out soon."""
        return stage.log(lease_seconds=LEASE)

    # -- join ------------------------------------------------------------------------------------

    async def test_the_first_writes_and_the_others_follow(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        assert abs(epoch / 1000 - time.time()) < 60
        assert await follow(other) == epoch
        assert await other.join("k", "third", "third", epoch=0, may_create=False) == Follow(epoch)
        # The answer to its election may have been lost on the way.
        assert await log.join("k", "s", "writer", epoch=0, may_create=True) == Write(epoch, takeover=False)

    async def test_who_follows_may_read_at_once(self, log: Log, other: Log) -> None:
        epoch = await elect(log)

        async def joined(session_id: str, since: int = 0) -> Hit | Follow | Write | Wait:
            return await other.join("k", session_id, "reader", epoch=since, may_create=True, read=True)

        assert await joined("one") == Follow(epoch, rest(""))
        await write(log, epoch, "é😀")
        await write(log, epoch, "é😀", " more")
        await log.stop("k", "one")
        assert await joined("two") == Follow(epoch, rest("é😀 more", stops=frozenset({"one"})))
        assert await joined("two") == Follow(epoch, await log.read("k", epoch, 0))
        # Who writes, or elects, has nothing to read; who asks for nothing gets nothing.
        assert await log.join("k", "s", "writer", epoch=0, may_create=True, read=True) == Write(epoch, False)
        assert await other.join("k", "three", "reader", epoch=0, may_create=True) == Follow(epoch)
        await log.end("k", "writer", Reply(epoch, "é😀 more", STOPPED), 8)
        followed = await joined("s", epoch)
        assert isinstance(followed, Follow)
        assert followed.begun is not None
        assert (followed.begun.text, followed.begun.end) == ("é😀 more", STOPPED)

    async def test_one_of_many_is_elected(self, log: Log, other: Log) -> None:
        joins = [
            place.join("k", f"session {number}", f"owner {number}", epoch=0, may_create=True)
            for number, place in enumerate([log, other] * 8)
        ]
        found = await asyncio.gather(*joins)
        [elected] = [joined for joined in found if isinstance(joined, Write)]
        assert found.count(Follow(elected.epoch)) == 15

    async def test_generations_do_not_meet(self, log: Log) -> None:
        await elect(log, key="one")
        await elect(log, key="two")
        await log.flush([Append("one", 1, "writer", 1, "x", ["x"])])
        assert await log.stop("two", "s") == 0
        assert await log.stop("one", "s") == 0

    async def test_a_good_end_is_a_hit_everywhere(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        reply = Reply(epoch, TEXT, STOP)
        assert await log.cached("k") is None
        await log.end("k", "writer", reply, 0)
        for place in (log, other):
            assert await place.cached("k") == reply
            assert await place.join("k", "later", "later", epoch=0, may_create=True) == Hit(reply)
            assert await place.join("k", "s", "again", epoch=epoch, may_create=False) == Hit(reply)

    @pytest.mark.parametrize(
        ("text", "end"),
        [
            ("Half", STOPPED),
            ("Half", FAILED),
            ("Half", Completed(FinishReason.LENGTH, "max_tokens", Usage(3, 100))),
            ("Half", Completed(FinishReason.TRUNCATED)),
            ("Half", Completed(FinishReason.CONTENT_FILTER, "refusal")),
            ("", STOP),
        ],
    )
    async def test_any_other_end_is_asked_anew(self, log: Log, text: str, end: End) -> None:
        epoch = await elect(log)
        await log.end("k", "writer", Reply(epoch, text, end), 0)
        assert await log.cached("k") is None
        joined = await log.join("k", "later", "later", epoch=0, may_create=True)
        assert isinstance(joined, Write)
        assert joined.epoch > epoch
        assert not joined.takeover

    async def test_nothing_is_cached_where_that_is_off(self, stage: LogStage) -> None:
        log = stage.log(cache_seconds=0)
        epoch = await elect(log)
        await log.end("k", "writer", Reply(epoch, "All", STOP), 0)
        joined = await log.join("k", "later", "later", epoch=0, may_create=True)
        assert isinstance(joined, Write)

    async def test_a_session_finds_the_end_of_its_own_epoch(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        await log.end("k", "writer", Reply(epoch, "Half", FAILED), 0)
        assert await other.join("k", "s", "again", epoch=epoch, may_create=True) == Follow(epoch)
        assert await other.read("k", epoch, 2) == rest("lf", FAILED, alive=False)

    async def test_a_new_epoch_is_above_what_the_session_followed(self, log: Log) -> None:
        future = int(time.time() * 1000) + 1_000_000
        assert await log.join("k", "s", "writer", epoch=future, may_create=True) == Write(future + 1, False)
        reply = Reply(future + 1, "All", STOP)
        await log.end("k", "writer", reply, 0)
        assert await log.join("k", "s", "next", epoch=future + 1, may_create=True) == Hit(reply)
        later = await log.join("k", "s", "next", epoch=future + 9, may_create=True)
        assert later == Write(future + 10, False)

    async def test_a_reader_takes_over_when_the_lease_is_gone(self, hasty: Log, stage: LogStage) -> None:
        epoch = await elect(hasty)
        await write(hasty, epoch, "Lost")
        await asyncio.sleep(LEASE * 1.3)
        assert await hasty.read("k", epoch, 0) == rest("Lost", alive=False)
        other = stage.log()
        assert await other.join("k", "reader", "next", epoch=epoch, may_create=False) == Write(
            epoch + 1, True
        )
        assert await follow(other, "third") == epoch + 1
        # The first one wakes up, and writes nothing.
        assert await write(hasty, epoch, "Lost", " words") == Fenced()
        assert await hasty.end("k", "writer", Reply(epoch, "Lost words", STOP), 4) == Fenced()
        assert not await hasty.abandon("k", "writer")
        assert (await hasty.read("k", epoch, 0)).superseded
        assert await other.read("k", epoch + 1, 0) == rest("")
        await write(other, epoch + 1, "Whole.", owner="next")
        assert await hasty.read("k", epoch + 1, 0) == rest("Whole.")

    async def test_a_reader_waits_where_the_log_is_lost(self, log: Log) -> None:
        assert await log.join("k", "s", "reader", epoch=5, may_create=False) == Wait()
        # Who waits is not attached.
        epoch = await elect(log, "other")
        assert await log.stop("k", "other") == 0
        assert await log.join("k", "s", "reader", epoch=5, may_create=False) == Follow(epoch)

    async def test_the_attached_sessions_of_all_processes_are_told(
        self, log: Log, other: Log, stage: LogStage
    ) -> None:
        assert await log.attached("k") == NOBODY
        epoch = await elect(log, "first")
        await follow(other, "second")
        await elect(log, "elsewhere", key="l")
        assert await log.attached("k") == await other.attached("k") == {"first", "second"}
        await other.stop("k", "first")
        assert await log.attached("k") == {"second"}
        # To ask changes nothing.
        assert await write(log, epoch, "x") == Flushed(frozenset({"first"}), 1)
        await stage.lose()
        assert await log.attached("k") == NOBODY

    async def test_a_new_epoch_begins_without_the_last_one_s_sessions(self, log: Log) -> None:
        epoch = await elect(log, "first")
        await follow(log, "second")
        await log.stop("k", "second")
        await log.end("k", "writer", Reply(epoch, "Half", FAILED), 0)
        await log.join("k", "first", "again", epoch=epoch, may_create=True)
        epoch = await elect(log, "third")
        assert await write(log, epoch, "x") == Flushed(NOBODY, 1)
        assert await log.stop("k", "third") == 0

    async def test_a_takeover_keeps_the_sessions_but_not_the_stops(self, hasty: Log) -> None:
        epoch = await elect(hasty, "first")
        await follow(hasty, "second")
        await follow(hasty, "third")
        await hasty.stop("k", "third")
        await asyncio.sleep(LEASE * 1.3)
        assert await hasty.join("k", "second", "next", epoch=epoch, may_create=True) == Write(epoch + 1, True)
        assert await write(hasty, epoch + 1, "x", owner="next") == Flushed(NOBODY, 2)

    # -- flush, read -----------------------------------------------------------------------------

    async def test_what_is_flushed_is_read_from_any_position(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        pieces = [TEXT[:3], TEXT[3:7], TEXT[7:]]
        for number in range(1, 4):
            assert await write(log, epoch, *pieces[:number]) == Flushed(NOBODY, 1)
        for position in range(len(TEXT) + 1):
            assert await other.read("k", epoch, position) == rest(TEXT[position:])

    async def test_a_flush_renews_the_lease(self, hasty: Log) -> None:
        epoch = await elect(hasty)
        for number in range(5):
            await asyncio.sleep(LEASE / 2)
            assert await write(hasty, epoch, "x" * (number // 2), "") == Flushed(NOBODY, 1)
        assert (await hasty.read("k", epoch, 0)).alive
        assert await follow(hasty) == epoch

    async def test_a_late_writer_goes_on_where_nobody_took_over(self, hasty: Log) -> None:
        epoch = await elect(hasty)
        await asyncio.sleep(LEASE * 1.3)
        assert await write(hasty, epoch, "x") == Flushed(NOBODY, 1)
        assert await hasty.read("k", epoch, 0) == rest("x")

    async def test_a_flush_again_is_not_doubled(self, log: Log) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await write(log, epoch, "One ")
        # The answer to the first flush was lost, so its text comes again with the next.
        again = Append("k", epoch, "writer", 8, "One two ", ["One ", "two "])
        assert await log.flush([again]) == [Flushed(NOBODY, 1)]
        await write(log, epoch, "One two ", "three")
        for position in range(14):
            assert (await log.read("k", epoch, position)).text == "One two three"[position:]
        await log.end("k", "writer", Reply(epoch, "One two three.", STOPPED), 4)
        assert await log.read("k", epoch, 2) == rest("e two three.", STOPPED, alive=False)

    async def test_a_lost_log_is_written_anew(self, log: Log, stage: LogStage) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await stage.lose()
        assert (await log.read("k", epoch, 0)).superseded
        # The reply grew while the flush was on its way: its position counts.
        grown = ["One ", "two ", "three"]
        assert await log.flush([Append("k", epoch, "writer", 8, "two ", grown)]) == [Flushed(NOBODY, 0)]
        assert await log.read("k", epoch, 0) == rest("One two ")
        await write(log, epoch, "One two ", "three")
        assert await log.read("k", epoch, 6) == rest("o three")
        assert await follow(log) == epoch

    async def test_many_logs_are_flushed_at_once_each_on_its_own(self, log: Log, stage: LogStage) -> None:
        epochs = [await elect(log, key=f"lost {number}") for number in range(2)]
        await stage.lose()
        whole = await elect(log, key="whole")
        fenced = await elect(log, key="fenced")
        await log.stop("whole", "s")
        appends = [
            Append(f"lost {number}", epoch, "writer", 6, "l", ["he", "l", "lo!"])
            for number, epoch in enumerate(epochs)
        ]
        outcomes = await log.flush(
            [
                appends[0],
                Append("whole", whole, "writer", 3, "abc", ["abc"]),
                Append("fenced", fenced, "nobody", 3, "abc", ["abc"]),
                appends[1],
            ]
        )
        assert outcomes == [
            Flushed(NOBODY, 0),
            Flushed(frozenset({"s"}), 0),
            Fenced(),
            Flushed(NOBODY, 0),
        ]
        assert await log.read("whole", whole, 0) == rest("abc", stops=frozenset({"s"}))
        for number, epoch in enumerate(epochs):
            assert await log.read(f"lost {number}", epoch, 0) == rest("hello!")
        assert await log.read("fenced", fenced, 0) == rest("")
        assert await log.flush([]) == []

    async def test_a_lost_log_has_a_new_writer_at_most_once(self, log: Log, stage: LogStage) -> None:
        epoch = await elect(log)
        await stage.lose()
        await asyncio.sleep(0.002)
        later = await elect(log, "other", "other")
        assert later > epoch
        assert await write(log, epoch, "Old") == Fenced()
        assert await log.end("k", "writer", Reply(epoch, "Old", STOP), 0) == Fenced()
        assert await log.read("k", later, 0) == rest("")

    async def test_what_never_was_is_superseded(self, log: Log) -> None:
        assert await log.read("k", 5, 0) == Slice("", None, False, True, NOBODY)
        epoch = await elect(log)
        for unknown in (epoch - 1, epoch + 1):
            part = await log.read("k", unknown, 0)
            assert (part.superseded, part.text, part.end) == (True, "", None)

    async def test_an_epoch_that_ended_stays_whole_when_the_next_begins(self, log: Log) -> None:
        epoch = await elect(log)
        await write(log, epoch, "Half")
        await log.end("k", "writer", Reply(epoch, "Half", FAILED), 4)
        await elect(log, "next", "next")
        part = await log.read("k", epoch, 1)
        assert (part.text, part.end, part.superseded) == ("alf", FAILED, False)

    # -- end -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", [STOP, STOPPED, FAILED])
    async def test_the_end_comes_with_what_was_not_flushed(self, log: Log, other: Log, end: End) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        reply = Reply(epoch, "One two", end)
        assert await log.end("k", "writer", reply, 4) == Flushed(NOBODY, 1)
        for position in range(8):
            assert await other.read("k", epoch, position) == rest("One two"[position:], end, alive=False)

    async def test_an_end_again_changes_nothing(self, log: Log) -> None:
        epoch = await elect(log)
        reply = Reply(epoch, "All", STOP)
        for _ in range(2):
            assert isinstance(await log.end("k", "writer", reply, 0), Flushed)
        assert isinstance(await log.end("k", "writer", Reply(epoch, "Less", FAILED), 0), Flushed)
        assert await log.read("k", epoch, 0) == rest("All", STOP, alive=False)
        assert await write(log, epoch, "All", " more") == Fenced()
        assert await log.join("k", "later", "later", epoch=0, may_create=True) == Hit(reply)

    async def test_an_end_in_a_lost_log_is_whole(self, log: Log, stage: LogStage) -> None:
        epoch = await elect(log)
        await write(log, epoch, "One ")
        await stage.lose()
        reply = Reply(epoch, "One two", STOP)
        assert isinstance(await log.end("k", "writer", reply, 4), Flushed)
        assert await log.read("k", epoch, 0) == rest("One two", STOP, alive=False)

    async def test_only_the_writer_ends(self, log: Log) -> None:
        epoch = await elect(log)
        assert await log.end("k", "somebody", Reply(epoch, "Not mine", STOP), 0) == Fenced()
        assert await write(log, epoch, "Not mine", owner="somebody") == Fenced()
        assert await log.read("k", epoch, 0) == rest("")

    async def test_an_empty_reply_ends_too(self, log: Log) -> None:
        epoch = await elect(log)
        await log.end("k", "writer", Reply(epoch, "", FAILED), 0)
        assert await log.read("k", epoch, 0) == rest("", FAILED, alive=False)

    # -- stop, abandon ---------------------------------------------------------------------------

    async def test_a_stop_detaches_and_is_told_to_the_writer(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        await follow(other, "second")
        await follow(other, "third")
        assert await other.stop("k", "third") == 2
        assert await other.stop("k", "third") == 2
        assert await write(log, epoch, "x") == Flushed(frozenset({"third"}), 2)
        assert (await other.read("k", epoch, 0)).stops == frozenset({"third"})
        assert await log.stop("k", "s") == 1
        assert await other.stop("k", "second") == 0
        everybody = frozenset({"s", "second", "third"})
        assert await write(log, epoch, "x", "") == Flushed(everybody, 0)

    async def test_a_stop_while_the_log_is_lost_is_told_later(self, log: Log, stage: LogStage) -> None:
        epoch = await elect(log)
        await stage.lose()
        assert await log.stop("k", "s") == 0
        assert await write(log, epoch, "x") == Flushed(frozenset({"s"}), 0)

    async def test_only_what_nobody_reads_is_abandoned(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        assert not await log.abandon("k", "writer")
        await log.stop("k", "s")
        assert not await other.abandon("k", "somebody")
        await follow(other)
        assert not await log.abandon("k", "writer")
        await other.stop("k", "reader")
        assert await log.abandon("k", "writer")
        assert not await log.abandon("k", "writer")
        assert (await other.read("k", epoch, 0)).superseded
        await asyncio.sleep(0.002)
        assert await elect(other, "later", "later") > epoch
        assert await write(log, epoch, "Old") == Fenced()

    async def test_who_comes_while_the_last_one_leaves_reads_or_writes(self, log: Log, other: Log) -> None:
        for number in range(20):
            key = f"race {number}"
            epoch = await elect(log, key=key)
            await log.stop(key, "s")
            abandoned, joined = await asyncio.gather(
                log.abandon(key, "writer"), other.join(key, "late", "late", epoch=0, may_create=True)
            )
            assert joined == Follow(epoch) if not abandoned else isinstance(joined, Write)

    async def test_a_good_end_outlives_the_log(self, log: Log) -> None:
        epoch = await elect(log)
        reply = Reply(epoch, "All", STOP)
        await log.end("k", "writer", reply, 0)
        assert not await log.abandon("k", "writer")
        assert await log.join("k", "later", "later", epoch=0, may_create=True) == Hit(reply)

    # -- watch -----------------------------------------------------------------------------------

    async def test_a_watch_rings_for_all_that_happens(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        listeners = [Wakeup(), Wakeup()]
        watches = [await other.watch("k", wakeup) for wakeup in listeners]
        pieces = ["x"]
        await write(log, epoch, *pieces)
        # A server may take the write before the subscription, which came by another connection.
        while [await wakeup.wait(2) for wakeup in listeners] != [True, True]:
            pieces.append("x")
            assert len(pieces) < 20
            await write(log, epoch, *pieces)
        await log.stop("k", "s")
        assert [await wakeup.wait(2) for wakeup in listeners] == [True, True]
        await watches[1].close()
        text = "".join(pieces)
        await log.end("k", "writer", Reply(epoch, text, STOPPED), len(text))
        assert await listeners[0].wait(2)
        assert not await listeners[1].wait(0.05)
        await elect(log, "last", "last")
        await log.stop("k", "last")
        await listeners[0].wait(0.05)
        assert await log.abandon("k", "last")
        assert await listeners[0].wait(2)
        await watches[0].close()

    async def test_a_watch_hears_of_its_own_generation_only(self, log: Log, other: Log) -> None:
        epoch = await elect(log)
        await elect(log, key="another")
        wakeup = Wakeup()
        watch = await other.watch("another", wakeup)
        await write(log, epoch, "x")
        assert not await wakeup.wait(0.05)
        await watch.close()
        watch = await other.watch("k", wakeup)
        await write(log, epoch, "x", "y")
        assert await wakeup.wait(2)
        await watch.close()

    # -- readers ---------------------------------------------------------------------------------

    async def test_the_newest_readers_of_all_processes_stay(self, log: Log, other: Log) -> None:
        mine: dict[str, int] = {}
        assert await count(log, "one", "two", arrivals=mine) == ["one", "two"]
        assert 0 < mine["one"] < mine["two"]
        theirs: dict[str, int] = {}
        assert await count(other, "three", arrivals=theirs) == ["three"]
        assert theirs["three"] > mine["two"]
        assert await count(log, "one", "two", arrivals=mine) == ["two"]
        # A reader that was let go comes back as another one, and is the newest.
        assert await count(log, "two", "one again", arrivals=mine) == ["one again"]
        assert await count(other, "three", arrivals=theirs) == ["three"]

    async def test_more_new_readers_than_the_limit_leave_the_last_of_them(self, log: Log) -> None:
        assert await count(log, *"abcde") == ["d", "e"]

    async def test_a_reader_that_left_makes_room_for_an_older_one(self, log: Log, other: Log) -> None:
        mine: dict[str, int] = {}
        await count(log, "one", "two", arrivals=mine)
        assert await count(other, "three") == ["three"]
        assert await count(other, left=["three"]) == []
        assert await count(log, "one", "two", arrivals=mine) == ["one", "two"]

    async def test_a_repeated_count_changes_nothing(self, log: Log, other: Log) -> None:
        first: dict[str, int] = {}
        again: dict[str, int] = {}
        await count(log, "one", "two", arrivals=first)
        # The answer to the first may have been lost on the way, and with it the arrivals.
        await count(log, "one", "two", arrivals=again)
        assert again == first
        assert await count(other, left=["unheard-of"]) == []
        assert await count(log, "one", "two", arrivals=again) == ["one", "two"]
        assert again == first

    async def test_a_lost_count_comes_to_the_same_readers_again(
        self, stage: LogStage, log: Log, other: Log
    ) -> None:
        mine: dict[str, int] = {}
        theirs: dict[str, int] = {}
        await count(log, "one", "two", arrivals=mine)
        await stage.lose()
        assert await count(other, "three", arrivals=theirs) == ["three"]
        # Both are known by their arrivals, which are older.
        assert await count(log, "one", "two", arrivals=mine) == ["two"]
        assert await count(other, "three", arrivals=theirs) == ["three"]

    async def test_each_session_s_readers_are_counted_for_themselves(self, log: Log) -> None:
        counts = [ReaderCount(f"s{number}", [(f"r{number}", 0)], []) for number in range(300)]
        outcomes = await log.count_readers(counts, 1, 60)
        assert all(outcome is not None and outcome[0] > 0 for outcome in outcomes)
        assert await log.count_readers([], 1, 60) == []

    async def test_a_count_lapses(self, log: Log) -> None:
        old = ReaderCount("s", [("one", 0)], [])
        [first] = await log.count_readers([old], 1, 0.01)
        assert first is not None
        await asyncio.sleep(0.05)
        # Nobody told of the reader any more, so an older one is counted by itself.
        [outcome] = await log.count_readers([ReaderCount("s", [("older", first[0] - 1)], [])], 1, 60)
        assert outcome == [first[0] - 1]

    # -- park ------------------------------------------------------------------------------------

    async def test_parked_replies_come_back_as_they_were(self, log: Log, other: Log) -> None:
        assert await log.parked(10) == []
        replies = {
            "one": (Reply(1, TEXT.replace("\0", ""), STOP), "provider"),
            "two": (Reply(1_795_391_262_123, "", FAILED), "joined"),
            "three": (Reply(0, "Half", STOPPED), "cache"),
        }
        for session_id, (reply, source) in replies.items():
            await log.park(session_id, reply, source)
            await log.park(session_id, reply, source)
        found = {session_id: (reply, source) for session_id, reply, source in await other.parked(10)}
        assert found == replies
        assert len(await other.parked(2)) == 2
        for session_id in ("one", "three", "three", "unheard-of"):
            await other.unpark(session_id)
        assert await log.parked(10) == [("two", *replies["two"])]

    async def test_the_parked_reply_of_a_session_is_its_own(self, log: Log, other: Log) -> None:
        assert await log.parked_of("one") is None
        await log.park("one", Reply(1, TEXT.replace("\0", ""), STOP), "provider")
        await log.park("two", Reply(2, "", FAILED), "joined")
        assert await other.parked_of("one") == (Reply(1, TEXT.replace("\0", ""), STOP), "provider")
        assert await other.parked_of("two") == (Reply(2, "", FAILED), "joined")
        assert await other.parked_of("three") is None
        await other.unpark("one")
        assert await log.parked_of("one") is None
        assert await log.parked_of("two") is not None

    async def test_a_check_of_the_log_passes(self, log: Log) -> None:
        await log.check()
