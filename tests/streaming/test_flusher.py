"""The flusher: many writers' text, one round trip at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, FinishReason
from parley.domain.results import Append, Fenced, Flushed, Write
from parley.memory.log import MemoryLog
from parley.streaming import flusher as flushing
from parley.streaming.flusher import Flusher
from parley.streaming.text_buffer import TextBuffer
from tests.in_memory import until

STOP = Completed(FinishReason.STOP)


class Spy(MemoryLog):
    """A log in memory that can be slow, shut, away, or refuse one key, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=5, cache_seconds=60)
        self.batches: list[list[Append]] = []
        self.begun = self.inside = self.most = 0
        self.open = asyncio.Event()
        self.open.set()
        self.slow = 0.0
        self.away = False
        self.refuses = ""
        self.broken = False

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        self.begun += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(self.slow)
        await self.open.wait()
        self.inside -= 1
        if self.broken:
            raise ZeroDivisionError
        if self.away:
            raise LogUnavailable
        self.batches.append(list(appends))
        taken = await super().flush([append for append in appends if append.key != self.refuses])
        outcomes = iter(taken)
        return [None if append.key == self.refuses else next(outcomes) for append in appends]


class Pen:
    """A writer of nothing but what the test says."""

    def __init__(self, key: str, epoch: int) -> None:
        self.key = key
        self.owner = f"owner of {key}"
        self.buffer = TextBuffer(epoch)
        self.stops: frozenset[str] = frozenset()
        self.logged = True
        self.lost = False

    def took(self, outcome: Flushed) -> bool:
        self.logged = True
        self.stops = outcome.stops
        return bool(outcome.stops) and not outcome.attached

    def missed(self) -> None:
        self.logged = False

    def lose(self) -> None:
        self.lost = True


@pytest.fixture
def log() -> Spy:
    return Spy()


@pytest.fixture
async def flusher(log: Spy) -> AsyncIterator[Flusher]:
    flusher = Flusher(log, gather=0.01, look=0.05)
    yield flusher
    await flusher.close()


async def pen(flusher: Flusher, log: Spy, key: str) -> Pen:
    joined = await log.join(key, "s", f"owner of {key}", epoch=0, may_create=True)
    assert isinstance(joined, Write)
    made = Pen(key, joined.epoch)
    flusher.add(made)
    return made


async def text(log: Spy, pen: Pen) -> str:
    return (await log.read(pen.key, pen.buffer.epoch, 0)).text


async def test_what_comes_together_goes_together(flusher: Flusher, log: Spy) -> None:
    pens = [await pen(flusher, log, f"key {number}") for number in range(20)]
    for each in pens:
        each.buffer.append(each.key)
        each.buffer.append("!")
    await until(lambda: len(log.batches) > 0)
    assert [len(batch) for batch in log.batches] == [20]
    assert [await text(log, each) for each in pens] == [f"key {number}!" for number in range(20)]


async def test_more_than_a_batch_goes_in_several(flusher: Flusher, log: Spy) -> None:
    pens = [await pen(flusher, log, f"key {number}") for number in range(600)]
    for each in pens:
        each.buffer.append("x")
    await until(lambda: len(log.batches) >= 3)
    assert [len(batch) for batch in log.batches[:3]] == [256, 256, 88]
    assert {await text(log, each) for each in pens} == {"x"}


async def test_who_ends_while_others_are_flushed_is_left_out(flusher: Flusher, log: Spy) -> None:
    pens = [await pen(flusher, log, f"key {number}") for number in range(300)]
    for each in pens:
        each.buffer.append("x")
    log.open.clear()
    await until(lambda: log.begun == 1)
    last = pens[-1]
    assert await flusher.end(last, Reply(last.buffer.epoch, "x", STOP))
    log.open.set()
    await until(lambda: len(log.batches) >= 2)
    assert not last.lost
    assert all(append.key != last.key for batch in log.batches for append in batch)
    assert (await log.read(last.key, last.buffer.epoch, 0)).end == STOP


async def test_a_slow_log_gets_larger_pieces_not_more(flusher: Flusher, log: Spy) -> None:
    log.slow = 0.1
    writer = await pen(flusher, log, "key")
    while len(log.batches) < 3:
        writer.buffer.append("x")
        await asyncio.sleep(0.005)
    length = writer.buffer.length
    await flusher.end(writer, Reply(writer.buffer.epoch, "x" * length, STOP))
    # One at a time, and what was said meanwhile goes together with the next.
    assert log.begun - len(log.batches) <= 1
    assert log.most == 1
    assert await text(log, writer) == "x" * length


async def test_silent_writers_keep_their_leases(flusher: Flusher, log: Spy) -> None:
    await pen(flusher, log, "key")
    await until(lambda: len(log.batches) >= 2)
    assert {append.text for batch in log.batches for append in batch} == {""}


async def test_a_stop_is_heard_and_a_log_that_nobody_wants_abandoned(flusher: Flusher, log: Spy) -> None:
    writer, other = await pen(flusher, log, "key"), await pen(flusher, log, "other")
    await log.stop("key", "s")
    flusher.flush_soon(writer)
    await until(lambda: writer.lost)
    assert (writer.stops, writer.lost, other.lost) == (frozenset({"s"}), True, False)
    assert (await log.read("key", writer.buffer.epoch, 0)).superseded


async def test_who_is_replaced_is_told_and_writes_no_more(flusher: Flusher, log: Spy) -> None:
    writer, other = await pen(flusher, log, "key"), await pen(flusher, log, "other")
    writer.owner = "somebody else"
    writer.buffer.append("late")
    other.buffer.append("fine")
    await until(lambda: writer.lost)
    assert (writer.lost, other.lost, await text(log, writer)) == (True, False, "")
    before = len(log.batches)
    writer.buffer.append("later")
    await asyncio.sleep(0.03)
    assert all(append.key != "key" for batch in log.batches[before:] for append in batch)


@pytest.mark.parametrize("broken", [False, True])
async def test_while_the_log_is_away_text_is_kept(flusher: Flusher, log: Spy, broken: bool) -> None:
    writer = await pen(flusher, log, "key")
    log.away, log.broken = not broken, broken
    writer.buffer.append("One ")
    await until(lambda: not writer.logged)
    log.away = log.broken = False
    writer.buffer.append("two.")
    await until(lambda: writer.logged)
    assert (writer.logged, await text(log, writer)) == (True, "One two.")


async def test_one_refused_alone_does_not_hold_up_the_others(
    flusher: Flusher, log: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "_PAUSE_SECONDS", 60)
    log.refuses = "key"
    refused, other = await pen(flusher, log, "key"), await pen(flusher, log, "other")
    for _ in range(5):
        refused.buffer.append("x")
        other.buffer.append("x")
        batches = len(log.batches)
        await until(lambda: len(log.batches) > batches)  # noqa: B023 - it ends before the next round
    assert (refused.logged, other.logged, await text(log, other)) == (False, True, "xxxxx")
    assert sum(append.key == "key" for batch in log.batches for append in batch) == 1


async def test_the_end_waits_for_a_flush_that_is_under_way(flusher: Flusher, log: Spy) -> None:
    writer = await pen(flusher, log, "key")
    log.open.clear()
    writer.buffer.append("One ")
    await until(lambda: log.begun == 1)
    writer.buffer.append("two.")
    ending = asyncio.create_task(flusher.end(writer, Reply(writer.buffer.epoch, "One two.", STOP)))
    await asyncio.sleep(0.01)
    assert not ending.done()
    log.open.set()
    assert await ending
    assert [append.text for batch in log.batches for append in batch] == ["One "]
    found = await log.read("key", writer.buffer.epoch, 0)
    assert (found.text, found.end) == ("One two.", STOP)


async def test_the_end_of_a_replaced_writer_counts_for_nothing(flusher: Flusher, log: Spy) -> None:
    writer = await pen(flusher, log, "key")
    writer.owner = "somebody else"
    assert not await flusher.end(writer, Reply(writer.buffer.epoch, "x", STOP))
    assert (await log.read("key", writer.buffer.epoch, 0)).end is None
