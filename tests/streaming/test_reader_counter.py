"""The counter of readers: the newest are let in, the oldest are let go, here and in other processes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from parley.domain.conversation import Model, Reply, Session, SessionState
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, FinishReason
from parley.domain.results import ReaderCount
from parley.memory.log import MemoryLog
from parley.streaming.reader_counter import ReaderCounter
from parley.streaming.session_run import SessionRun
from tests.in_memory import until

MODEL = Model("small", "maker", "small-1", "Small", 100, 1000)


class Spy(MemoryLog):
    """A log in memory that can be slow, away or broken, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=5, cache_seconds=60)
        self.told: list[list[ReaderCount]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def count_readers(
        self, counts: Sequence[ReaderCount], limit: int, seconds: float
    ) -> list[list[int] | None]:
        self.told.append(list(counts))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await super().count_readers(counts, limit, seconds)

    def wipe(self) -> None:
        self._readers.clear()

    def latest(self, session_id: str = "s") -> int:
        """Return the arrival of the newest reader."""
        return max(self._readers[session_id][1].values()) if session_id in self._readers else 0

    def known(self, session_id: str = "s") -> int:
        return len(self._readers[session_id][1]) if session_id in self._readers else 0


class Fake:
    """A reader that only knows whether it was let go."""

    def __init__(self) -> None:
        self.gone = False

    def let_go(self) -> None:
        self.gone = True


class Place:
    """One process's counter, and its run of each session."""

    def __init__(self, log: MemoryLog, *, limit: int = 3, every: float = 0.05, gather: float = 0.01) -> None:
        self.counter = ReaderCounter(log, limit=limit, every=every, gather=gather)
        self.runs: dict[str, SessionRun] = {}

    def run(self, session_id: str = "s") -> SessionRun:
        session = Session(session_id, "ada", "c", "m", "r", SessionState.OPEN, False, 0, False, MODEL)
        return self.runs.setdefault(session_id, SessionRun(session, "key", None))

    def enter(self, session_id: str = "s") -> Fake:
        reader = Fake()
        self.counter.enter(self.run(session_id), reader)
        return reader

    def leave(self, reader: Fake, session_id: str = "s") -> None:
        self.counter.leave(self.run(session_id), reader)


@pytest.fixture
def log() -> Spy:
    return Spy()


@pytest.fixture
async def places(log: Spy) -> AsyncIterator[list[Place]]:
    made = [Place(log), Place(log)]
    yield made
    for place in made:
        await place.counter.close()


def gone(readers: Sequence[Fake]) -> list[bool]:
    return [reader.gone for reader in readers]


async def looked(log: Spy, times: int = 4) -> None:
    """Wait until the log was asked so many times more."""
    before = len(log.told)
    await until(lambda: len(log.told) >= before + times)


async def test_one_process_lets_its_oldest_go_at_once(places: list[Place]) -> None:
    readers = [places[0].enter() for _ in range(5)]
    # Nothing was awaited: no round trip stands before a reader's first frame.
    assert gone(readers) == [True, True, False, False, False]


async def test_the_oldest_go_wherever_they_are(log: Spy, places: list[Place]) -> None:
    readers = []
    for number in range(6):
        before = log.latest()
        readers.append(places[number % 2].enter())
        await until(lambda: log.latest() > before)  # noqa: B023 - it ends in its round
    await until(lambda: sum(gone(readers)) == 3)
    await looked(log)
    assert gone(readers) == [True] * 3 + [False] * 3


async def test_a_reader_that_left_takes_no_place(log: Spy, places: list[Place]) -> None:
    here, there = places
    readers = [here.enter() for _ in range(2)]
    await looked(log, 2)
    leaving = [there.enter() for _ in range(3)]
    there.leave(leaving[0])
    there.leave(leaving[1])
    await looked(log, 2)
    there.leave(leaving[2])
    readers.append(there.enter())
    await looked(log)
    assert gone(readers) == [False] * 3
    await until(lambda: log.known() == 3)


async def test_a_short_stream_costs_no_round_trip(log: Spy, places: list[Place]) -> None:
    for _ in range(20):
        places[0].leave(places[0].enter())
    await asyncio.sleep(0.03)
    assert log.told == []


async def test_readers_of_a_session_that_has_ended_are_not_counted(log: Spy, places: list[Place]) -> None:
    reply = Reply(1, "All", Completed(FinishReason.STOP))
    place = places[0]
    before = [place.enter() for _ in range(3)]
    await until(lambda: log.known() == 3)
    place.run().settle(reply, saved=True)
    assert not any(gone([place.enter() for _ in range(9)] + before))
    for reader in before:
        place.leave(reader)
    told = len(log.told)
    await asyncio.sleep(0.15)
    # The task has ended too: there is nobody to look for.
    assert len(log.told) <= told + 1
    assert place.counter._sessions == {}


async def test_many_sessions_share_a_round_trip(log: Spy, places: list[Place]) -> None:
    readers = [places[0].enter(f"s{number}") for number in range(300)]
    await until(lambda: len(log.told) >= 2)
    assert [len(counts) for counts in log.told[:2]] == [256, 44]
    assert not any(gone(readers))


async def test_without_the_log_each_process_counts_alone(log: Spy, places: list[Place]) -> None:
    log.error = LogUnavailable()
    here, there = ([place.enter() for _ in range(4)] for place in places)
    await looked(log)
    assert gone(here) == gone(there) == [True, False, False, False]
    log.error = None
    # It is back: the newest of both stay.
    await until(lambda: sum(gone(here + there)) == 5)
    assert log.known() == 3


async def test_a_wiped_log_lets_nobody_go(log: Spy, places: list[Place]) -> None:
    readers = [places[0].enter(), places[1].enter(), places[0].enter()]
    await until(lambda: log.known() == 3)
    for _ in range(3):
        log.wipe()
        await until(lambda: log.known() == 3)
    assert not any(gone(readers))


async def test_a_reader_that_left_while_the_log_was_away_is_forgotten_afterwards(
    log: Spy, places: list[Place]
) -> None:
    place = places[0]
    staying, leaving = place.enter(), place.enter()
    await until(lambda: log.known() == 2)
    log.error = LogUnavailable()
    place.leave(leaving)
    await looked(log, 2)
    log.error = None
    await until(lambda: log.known() == 1)
    assert not staying.gone


async def test_a_reader_may_leave_while_the_log_is_told_of_it(log: Spy, places: list[Place]) -> None:
    log.open.clear()
    reader = places[0].enter()
    await until(lambda: len(log.told) == 1)
    places[0].leave(reader)
    log.open.set()
    await until(lambda: bool(places[0].counter._sessions) is False)
    assert log.known() == 0


async def test_a_bug_of_the_log_s_does_not_end_the_counting(
    log: Spy, places: list[Place], caplog: pytest.LogCaptureFixture
) -> None:
    log.error = TypeError("a bug")
    here = places[0].enter()
    await looked(log, 2)
    log.error = None
    await until(lambda: log.known() == 1)
    assert not here.gone
    assert "readers_broke" in caplog.messages


async def test_those_who_were_let_go_are_counted_in_one_line(
    log: Spy, places: list[Place], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        readers = [places[0].enter() for _ in range(5)]
        await until(lambda: "readers_let_go" in caplog.messages)
    [line] = [record for record in caplog.records if record.message == "readers_let_go"]
    assert line.__dict__["readers"] == sum(gone(readers)) == 2


async def test_zero_is_no_limit(log: Spy) -> None:
    place = Place(log, limit=0)
    readers = [place.enter() for _ in range(100)]
    place.leave(readers[0])
    await asyncio.sleep(0.03)
    assert not any(gone(readers))
    assert log.told == []
