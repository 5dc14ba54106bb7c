"""The clean-up, on a store and a log in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from parley.domain.conversation import Reply
from parley.domain.errors import StoreUnavailable
from parley.domain.events import Completed, End, Failed, FinishReason
from parley.domain.results import Append, Write
from parley.usecases.purge import Purged, purge
from tests.in_memory import Process, World

STOP = Completed(FinishReason.STOP)
NOTHING = Purged(0, 0, 0, 0, 0)
DAY = 24 * 60 * 60


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().open()
    yield made
    await made.close()


async def run(process: Process, *, batch: int = 10, days: int = 0) -> Purged:
    return await purge(process.store, process.log, batch=batch, retention_days=days, grace_seconds=60)


async def orphan(world: World, text: str = "", end: End | None = None) -> str:
    """Return a session whose writer died a while ago, having logged so much."""
    process = world.process()
    started = await process.start(f"Why {text}?")
    key = started.session_id
    joined = await world.log.join(key, started.session_id, "dead", epoch=0, may_create=True)
    assert isinstance(joined, Write)
    await world.log.flush([Append(key, joined.epoch, "dead", len(text), text, [text])])
    if end is not None:
        await world.log.end(key, "dead", Reply(joined.epoch, text, end), len(text))
    await process.store.attach(started.session_id, key, joined.epoch, 0, writer=True)
    return started.session_id


async def reply(world: World, session_id: str) -> Reply:
    _, found = await world.stage.store().reply(session_id)
    assert found is not None
    return found


async def test_a_purge_with_nothing_to_do_does_nothing(world: World) -> None:
    process = world.process()
    assert await run(process) == NOTHING
    await process.start()
    assert await run(process, days=30) == NOTHING
    assert set(NOTHING.counts()) == {
        "parked_saved", "orphans_ended", "sessions_expired", "sessions_deleted", "chats_deleted",
    }  # fmt: skip


async def test_a_purge_writes_one_line_with_its_counts(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = world.process()
    await process.start()
    await world.stage.pass_time(DAY)
    with caplog.at_level("INFO", "parley"):
        done = await run(process)
    [line] = [record for record in caplog.records if record.message == "purged"]
    assert done.sessions_expired == 1
    assert {name: vars(line)[name] for name in done.counts()} == done.counts()


@pytest.mark.parametrize("end", [STOP, Failed("busy", "Busy.", retryable=True), None])
async def test_an_orphan_gets_what_its_log_has(world: World, end: End | None) -> None:
    session_id = await orphan(world, "Half", end)
    process = world.process()
    assert await run(process) == NOTHING
    await world.stage.pass_time(61)
    assert (await run(process)).orphans_ended == 1
    found = await reply(world, session_id)
    assert found.text == "Half"
    if end is None:
        assert isinstance(found.end, Failed)
        assert (found.end.code, found.end.retryable) == ("interrupted", True)
    else:
        assert found.end == end
    assert await run(process) == NOTHING


async def test_an_orphan_that_was_to_stop_is_stopped(world: World) -> None:
    session_id = await orphan(world, "Half")
    await world.stage.store().request_stop(session_id, None)
    await world.stage.pass_time(61)
    await run(world.process())
    assert (await reply(world, session_id)).end == Completed(FinishReason.STOPPED)


async def test_an_orphan_waits_while_the_log_is_away(world: World) -> None:
    session_id = await orphan(world, "Half")
    await world.stage.pass_time(61)
    process = world.process()
    process.log_switch.turn_off()
    assert (await run(process)).orphans_ended == 0
    process.log_switch.turn_on()
    await world.stage.pass_time(61)
    assert (await run(process)).orphans_ended == 1
    assert (await reply(world, session_id)).text == "Half"


async def test_an_orphan_whose_own_log_cannot_be_read_is_ended_too(world: World) -> None:
    session_id = await orphan(world, "Lost")
    await world.stage.pass_time(61)
    process = world.process()
    process.log_switch.turn_off("read")
    assert (await run(process)).orphans_ended == 1
    assert (await reply(world, session_id)).text == ""


async def park(world: World, session_id: str, text: str = "Whole") -> Reply:
    """Park a whole reply of the session's own epoch."""
    parked = Reply(world.stage.database.sessions[session_id].epoch, text, STOP)
    await world.log.park(session_id, parked, "joined")
    return parked


@pytest.mark.parametrize("away", [("parked", "parked_of", "read"), ("*",)], ids=["parked", "everything"])
async def test_an_orphan_whose_reply_is_parked_is_not_ended_without_it(
    world: World, away: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    session_id = await orphan(world, "Half")
    parked = await park(world, session_id)
    await world.stage.pass_time(61)
    process = world.process()
    process.log_switch.turn_off(*away)
    assert await run(process) == NOTHING
    process.log_switch.turn_on()
    assert await run(process) == Purged(1, 0, 0, 0, 0)
    assert await reply(world, session_id) == parked
    assert await world.log.parked(9) == []
    assert "parked_reply_overtaken" not in caplog.text


async def test_an_orphan_gets_the_reply_that_is_parked_for_it(world: World) -> None:
    session_id = await orphan(world, "Half")
    parked = await park(world, session_id)
    await world.stage.pass_time(61)
    process = world.process()
    # Parked after this run has looked for all that are.
    process.log_switch.turn_off("parked")
    assert (await run(process)).orphans_ended == 1
    assert await reply(world, session_id) == parked
    assert await world.log.parked(9) == []


async def test_all_parked_replies_are_saved_whatever_the_batch(world: World) -> None:
    sessions = [await orphan(world, str(number)) for number in range(5)]
    replies = [await park(world, session_id, f"Whole {session_id}") for session_id in sessions]
    await world.stage.pass_time(61)
    assert await run(world.process(), batch=1) == Purged(5, 0, 0, 0, 0)
    assert [await reply(world, session_id) for session_id in sessions] == replies


async def test_a_parked_reply_that_was_overtaken_leaves_a_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = world.process()
    ended, going, same = [await orphan(world, str(number)) for number in range(3)]
    for session_id in (ended, going):
        await park(world, session_id)
    epoch = world.stage.database.sessions[ended].epoch
    await process.store.finish(ended, Reply(epoch, "Other", STOP), "provider")
    await process.store.attach(going, "key", epoch + 10_000_000, 60, writer=True)
    await process.store.finish(same, await park(world, same), "provider")
    assert (await run(process)).parked_saved == 0
    lines = [record for record in caplog.records if record.message == "parked_reply_overtaken"]
    assert len(lines) == 2
    assert (await reply(world, ended)).text == "Other"


async def test_a_session_whose_hit_may_be_parked_does_not_count_as_unread(world: World) -> None:
    process = world.process()
    started = await process.start()
    await world.log.park(started.session_id, Reply(5, "Kept", STOP), "cache")
    await world.stage.pass_time(1000)
    process.log_switch.turn_off()
    assert (await run(process)).sessions_expired == 0
    process.log_switch.turn_on()
    assert (await run(process)).parked_saved == 1
    assert (await reply(world, started.session_id)).text == "Kept"


async def test_parked_replies_are_saved_once(world: World) -> None:
    process = world.process()
    sessions = [(await process.start(str(number))).session_id for number in range(3)]
    for session_id in sessions:
        await process.store.attach(session_id, "key", 5, 0, writer=True)
        await world.log.park(session_id, Reply(5, f"Of {session_id}", STOP), "provider")
    # One was saved after all, one is gone, and one has a later epoch by now.
    await process.store.finish(sessions[1], Reply(5, "Before", STOP), "provider")
    await world.log.park("gone", Reply(5, "", STOP), "provider")
    await process.store.attach(sessions[2], "key", 6, 60, writer=True)
    assert (await run(process)).parked_saved == 1
    assert (await reply(world, sessions[0])).text == f"Of {sessions[0]}"
    assert (await reply(world, sessions[1])).text == "Before"
    assert await process.store.reply(sessions[2]) == (False, None)
    assert await world.log.parked(9) == []


async def test_a_parked_reply_outlives_a_store_that_is_away(world: World) -> None:
    process = world.process()
    started = await process.start()
    await world.log.park(started.session_id, Reply(5, "Kept", STOP), "provider")
    process.store_switch.turn_off("finish")
    with pytest.raises(StoreUnavailable):
        await run(process)
    process.store_switch.turn_on()
    assert (await run(process)).parked_saved == 1


async def test_everything_goes_in_batches_and_the_living_stay(world: World) -> None:
    process = world.process()
    started = [await process.start(str(number)) for number in range(5)]
    live = await process.start("Live?")
    await process.store.attach(live.session_id, "key", 5, 100 * DAY, writer=True)
    await world.stage.pass_time(1000)
    done = await run(process, batch=2)
    assert (done.sessions_expired, done.sessions_deleted, done.orphans_ended) == (5, 5, 0)
    await world.stage.pass_time(31 * DAY)
    assert (await run(process, batch=2)).chats_deleted == 0
    assert (await run(process, batch=2, days=30)).chats_deleted == 5
    left = await process.store.chats("ada", None, 9)
    assert [chat.chat_id for chat in left.chats] == [live.chat_id]
    assert started[0].chat_id not in world.stage.database.chats


async def test_two_at_once_share_the_work(world: World) -> None:
    for number in range(6):
        await orphan(world, str(number))
    await world.stage.pass_time(61)
    both = await asyncio.gather(run(world.process()), run(world.process()))
    assert sum(done.orphans_ended for done in both) == 6


async def test_a_reply_that_no_store_takes_stands_before_nothing(world: World) -> None:
    process = world.process()
    for number in range(3):
        await orphan(world, str(number))
    started = await process.start("Expired?")
    finish = process.store.finish
    refused: list[str] = []

    async def picky(session_id: str, reply: Reply, source: str) -> object:
        if not refused or session_id in refused:
            refused.append(session_id)
            raise ValueError("out of range")
        return await finish(session_id, reply, source)

    process.store.finish = picky  # type: ignore[method-assign,assignment]
    await world.stage.pass_time(700)
    done = await run(process)
    assert (done.orphans_ended, done.sessions_expired) == (2, 1)
    assert started.session_id
