"""Sessions that join, write, follow, stop and save, in processes that share a store and a log in memory."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from parley.domain.conversation import Reply, Role, SessionState, Started
from parley.domain.errors import NotFound, ProviderFault
from parley.domain.events import (
    Completed,
    Delta,
    Failed,
    Finish,
    FinishReason,
    Reasoning,
    Source,
    Status,
    Usage,
)
from parley.domain.results import Saved
from parley.streaming.reader import Reader
from parley.streaming.session_run import RunResult, SessionRun
from parley.usecases import sessions
from tests.in_memory import SESSION_IDS, STOP, Process, ScriptedModel, World, answer, shown, until

WHOLE = "Hello, world!"


def gated() -> tuple[ScriptedModel, asyncio.Event]:
    """Return a model that stops in the middle until it is let on."""
    gate = asyncio.Event()
    return ScriptedModel(Delta("Hello, "), gate, Delta("world!"), STOP), gate


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().open()
    yield made
    await made.close()


async def test_a_session_is_answered_and_its_reply_is_saved(world: World) -> None:
    process = world.process()
    run = await process.ask()
    found = await answer(run)
    assert (found.reply.text, found.saved, run.source) == (WHOLE, True, Source.PROVIDER)
    assert found.reply.end == Completed(FinishReason.STOP, "stop", Usage(3, 4))
    assert await process.stored(run) == found.reply
    assert process.model.talking == 0
    # Opened once more, it is history.
    again = await process.read(run.session.id)
    assert (again.source, again.result) == (Source.HISTORY, found)
    assert len(process.model.requests) == 1


async def test_a_session_has_one_run_in_a_process(world: World) -> None:
    process = world.process()
    run = await process.ask()
    assert await process.read(run.session.id) is run
    await answer(run)


async def test_the_model_is_asked_with_the_chat_s_history(world: World) -> None:
    process = world.process()
    first = await process.ask("One?")
    await answer(first)
    await answer(await process.ask("Two?", chat_id=first.session.chat_id))
    turns = [(turn.role, turn.text) for turn in process.model.requests[1].turns]
    assert turns == [(Role.USER, "One?"), (Role.ASSISTANT, WHOLE), (Role.USER, "Two?")]


async def test_equal_questions_make_one_call(world: World) -> None:
    model, gate = gated()
    processes = [world.process(model), world.process(model)]
    runs = [await processes[number % 2].ask(user=user) for number, user in enumerate(["ada", "bob"] * 3)]
    for run in runs:
        await shown(run, 5)
    gate.set()
    answers = [await answer(run) for run in runs]
    assert len(model.requests) == 1
    assert {found.reply.text for found in answers} == {WHOLE}
    assert all(found.saved for found in answers)
    assert [run.source for run in runs].count(Source.PROVIDER) == 1
    assert {(await processes[0].stored(run)).text for run in runs} == {WHOLE}


async def test_equal_questions_at_the_same_instant_make_one_call(world: World) -> None:
    process = world.process()
    runs = await asyncio.gather(*(process.ask(user=user) for user in ["ada", "bob"] * 10))
    assert {(await answer(run)).reply.text for run in runs} == {WHOLE}
    assert len(process.model.requests) == 1


async def test_an_equal_question_later_is_a_hit(world: World) -> None:
    here, there = world.process(), world.process()
    first = await answer(await here.ask())
    run = await there.ask(user="bob")
    assert (await answer(run)).reply == first.reply
    assert run.source is Source.CACHE
    assert there.model.requests == []
    assert await there.stored(run) == first.reply


async def test_users_share_only_what_the_settings_let_them(world: World) -> None:
    process = world.process(share_context_free=False)
    for user in ("ada", "bob", "ada"):
        await answer(await process.ask(user=user))
    assert len(process.model.requests) == 2


async def test_the_same_prompt_again_in_a_chat_is_a_hit_but_regenerate_is_not(world: World) -> None:
    process = world.process()
    first = await process.ask()
    chat = first.session.chat_id
    await answer(first)
    again = await process.ask(chat_id=chat)
    await answer(again)
    assert again.source is Source.CACHE
    anew = await process.read((await process.start(None, chat_id=chat, regenerate=True)).session_id)
    await answer(anew)
    assert anew.source is Source.PROVIDER
    assert len(process.model.requests) == 2


async def test_who_goes_on_pays_when_the_one_who_asked_has_stopped(world: World) -> None:
    model, gate = gated()
    process = world.process(model)
    asked, joined = await process.ask(), await process.ask(user="bob")
    await shown(asked, 7)
    await shown(joined, 7)
    await sessions.stop(process.store, process.log, SESSION_IDS, asked.session.id, "ada")
    await answer(asked)
    gate.set()
    assert (await answer(joined)).reply.text == WHOLE
    assert len(model.requests) == 1
    # The one who stopped pays what was set aside for the question and is estimated for seven characters.
    assert await used(world) == {"ada": (1, 2), "bob": (2, 2)}


async def used(world: World, *users: str) -> dict[str, tuple[int, int]]:
    """Return the tokens that each user was charged."""
    return {user: (await world.stage.used(user)).get("small", (0, 0)) for user in users or ("ada", "bob")}


async def asks(world: World, run: SessionRun) -> None:
    """Wait until a run's session is the one that is charged."""
    await until(lambda: world.stage.database.sessions[run.session.id].asked_model)


@pytest.mark.parametrize("reader", ["ada", "bob"])
async def test_who_goes_on_pays_also_in_another_process(world: World, reader: str) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process()
    asked = await here.ask()
    await shown(asked, 7)
    joined = await there.ask(user=reader)
    await shown(joined, 7)
    await sessions.stop(there.store, there.log, SESSION_IDS, asked.session.id, "ada")
    assert (await answer(asked)).reply.text == "Hello, "
    await asks(world, joined)
    # The lease is its own process's still.
    assert world.stage.database.sessions[joined.session.id].owner == "process 1"
    gate.set()
    assert (await answer(joined)).reply.text == WHOLE
    assert there.model.requests == []
    assert await used(world) == (
        {"ada": (3, 4), "bob": (0, 0)} if reader == "ada" else {"ada": (1, 2), "bob": (2, 2)}
    )


async def test_the_charge_goes_from_one_process_to_the_next_as_each_reader_stops(world: World) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    model = ScriptedModel(
        Delta("x" * 8), gates[0], Delta("y" * 8), gates[1], Delta("z" * 8), gates[2], Delta("."),
        Finish(FinishReason.STOP, "stop", Usage(3, 40)),
    )  # fmt: skip
    await world.stage.add_user("cleo", "pro")
    places = [world.process(model), world.process(), world.process()]
    runs = [await places[0].ask()]
    await shown(runs[0], 8)
    for process, user in zip(places[1:], ("bob", "cleo"), strict=True):
        runs.append(await process.ask(user=user))
        await shown(runs[-1], 8)
    # Whichever of the two is first in its turn: who is left at the end is the last one.
    for number in range(2):
        quitter = next(run for run in runs if world.stage.database.sessions[run.session.id].asked_model)
        runs.remove(quitter)
        await sessions.stop(places[2].store, places[2].log, SESSION_IDS, quitter.session.id, None)
        await until(lambda: any(world.stage.database.sessions[run.session.id].asked_model for run in runs))
        gates[number].set()
        for run in runs:
            await shown(run, 16 + 8 * number)
        assert (await answer(quitter)).reply.status is Status.STOPPED
    gates[2].set()
    assert (await answer(runs[0])).reply.text == "x" * 8 + "y" * 8 + "z" * 8 + "."
    charges = await used(world, "ada", "bob", "cleo")
    assert charges["ada"] == (1, 2)
    # The one between was charged from the first one's stop to its own.
    assert sorted([charges["bob"], charges["cleo"]]) == [(0, 2), (2, 36)]
    assert len(model.requests) == 1


async def test_who_goes_on_pays_when_the_one_who_asked_is_disabled(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model, renew_every=0.05), world.process()
    asked = await here.ask()
    await shown(asked, 7)
    joined = await there.ask(user="bob")
    await shown(joined, 7)
    await world.stage.disable("ada")
    await asks(world, joined)
    await answer(asked)
    gate.set()
    assert (await answer(joined)).reply.text == WHOLE
    assert await used(world) == {"ada": (1, 2), "bob": (2, 2)}


async def test_a_hand_over_that_failed_is_made_up_for_before_the_end(world: World) -> None:
    model, gate = gated()
    process = world.process(model)
    asked = await process.ask()
    await shown(asked, 7)
    joined = await process.ask(user="bob")
    await shown(joined, 7)
    process.store_switch.turn_off("hand_over")
    await sessions.stop(process.store, process.log, SESSION_IDS, asked.session.id, "ada")
    await answer(asked)
    await until(lambda: process.store_switch.calls["hand_over"] > 0)
    process.store_switch.turn_on()
    gate.set()
    # The last moment for it is before anybody sees the end.
    assert (await answer(joined)).reply.text == WHOLE
    assert await used(world) == {"ada": (1, 2), "bob": (2, 2)}


async def test_without_a_log_a_session_of_the_same_process_goes_on_paying(world: World) -> None:
    model, gate = gated()
    process = world.process(model, renew_every=0.05)
    process.log_switch.turn_off()
    asked = await process.ask()
    await shown(asked, 7)
    joined = await process.ask(user="bob")
    await shown(joined, 7)
    assert len(model.requests) == 1
    await sessions.stop(process.store, process.log, SESSION_IDS, asked.session.id, "ada")
    await answer(asked)
    await asks(world, joined)
    gate.set()
    assert (await answer(joined)).reply.text == WHOLE
    assert await used(world) == {"ada": (1, 2), "bob": (2, 2)}


async def test_an_asker_whose_process_died_is_replaced_before_the_end(world: World) -> None:
    model, gate = gated()
    places = [world.process(model), world.process(), world.process()]
    asked = await places[0].ask()
    await shown(asked, 7)
    joined = await places[1].ask(user="bob")
    await shown(joined, 7)
    await sessions.stop(places[0].store, places[0].log, SESSION_IDS, asked.session.id, "ada")
    await asks(world, joined)
    await answer(asked)
    await world.stage.add_user("cleo", "pro")
    last = await places[2].ask(user="cleo")
    await shown(last, 7)
    places[1].crash()
    await world.stage.pass_time(60)
    await until(
        lambda: bool(world.stage.database.sessions[last.session.id].leased(world.stage.database.clock()))
    )
    gate.set()
    assert (await answer(last)).reply.text == WHOLE
    assert await used(world, "ada", "bob", "cleo") == {"ada": (1, 2), "bob": (0, 0), "cleo": (2, 0)}
    # It was the asker until the writer asked for it, and owes for that, however its session ends.
    assert (await answer(await places[2].read(joined.session.id))).reply.text == WHOLE
    assert await used(world, "ada", "bob", "cleo") == {"ada": (1, 2), "bob": (0, 2), "cleo": (2, 0)}


async def test_closing_while_the_store_is_asked_for_the_next_asker_keeps_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process()
    asked = await here.ask()
    await shown(asked, 7)
    joined = await there.ask(user="bob")
    await shown(joined, 7)
    under_way = asyncio.Event()

    async def hand_over(*_: object) -> None:
        under_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(here.store, "hand_over", hand_over, raising=False)
    await sessions.stop(here.store, here.log, SESSION_IDS, asked.session.id, "ada")
    await answer(asked)
    await under_way.wait()
    gate.set()
    await until(lambda: model.talking == 0)
    assert joined.result is None
    await here.runner.close(0.2)
    assert (await answer(joined)).reply.text == WHOLE
    assert there.model.requests == []


async def test_a_bug_of_the_hand_over_costs_no_reply(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process()
    asked = await here.ask()
    await shown(asked, 7)
    joined = await there.ask(user="bob")
    await shown(joined, 7)
    here.store_switch.turn_off("hand_over", error=lambda: TypeError("a bug"))
    await sessions.stop(here.store, here.log, SESSION_IDS, asked.session.id, "ada")
    await answer(asked)
    gate.set()
    assert (await answer(joined)).reply.text == WHOLE
    assert here.store_switch.calls["hand_over"] > 0


async def test_who_asked_a_dead_writer_is_not_charged_for_the_reply_that_another_had_asked_for(
    world: World,
) -> None:
    model, _ = gated()
    here, there = world.process(model), world.process()
    asked = await here.ask()
    await shown(asked, 7)
    joined = await there.ask(user="bob")
    await shown(joined, 7)
    here.crash()
    assert (await answer(joined)).reply.text == WHOLE
    # It is a hit by now, of a later epoch than its own.
    assert (await answer(await there.read(asked.session.id))).reply.text == WHOLE
    assert await used(world) == {"ada": (0, 0), "bob": (3, 4)}


async def test_a_bug_of_the_store_s_does_not_end_the_renewing_of_leases(world: World) -> None:
    model, gate = gated()
    process = world.process(model, renew_every=0.05, session_lease=0.4)
    run = await process.ask()
    await shown(run, 7)
    store = process.store_switch
    store.turn_off("renew_leases", error=lambda: TypeError("a bug"))
    for _ in range(2):
        calls = store.calls["renew_leases"]
        await until(lambda: store.calls["renew_leases"] > calls + 1)  # noqa: B023 - it ends in its round
        store.turn_on()
    gate.set()
    assert (await answer(run)).reply.text == WHOLE


async def test_stopping_one_of_two_leaves_the_other(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process(model)
    mine, yours = await here.ask(), await there.ask(user="bob")
    await shown(mine, 7)
    await shown(yours, 7)
    await sessions.stop(here.store, here.log, SESSION_IDS, mine.session.id, "ada")
    stopped = await answer(mine)
    assert (stopped.reply.text, stopped.reply.status, stopped.saved) == ("Hello, ", Status.STOPPED, True)
    assert yours.result is None
    assert model.talking == 1
    gate.set()
    assert (await answer(yours)).reply.text == WHOLE
    assert (await here.stored(mine)).text == "Hello, "
    assert (await here.stored(yours)).text == WHOLE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_stopping_everybody_ends_the_call(world: World, order: tuple[int, int]) -> None:
    model, _ = gated()
    here, there = world.process(model), world.process(model)
    runs = [await here.ask(), await there.ask(user="bob")]
    for run in runs:
        await shown(run, 7)
    for number in order:
        await sessions.stop(there.store, there.log, SESSION_IDS, runs[number].session.id, None)
    await until(lambda: model.talking == 0)
    for run in runs:
        found = await answer(run)
        assert (found.reply.text, found.reply.status) == ("Hello, ", Status.STOPPED)
        assert await here.stored(run) == found.reply


async def test_a_stop_is_known_without_a_log(world: World) -> None:
    model, _ = gated()
    here, there = world.process(model), world.process()
    here.log_switch.turn_off()
    there.log_switch.turn_off()
    run = await here.ask()
    await shown(run, 7)
    await sessions.stop(there.store, there.log, SESSION_IDS, run.session.id, "ada")
    found = await answer(run)
    assert (found.reply.text, found.reply.status) == ("Hello, ", Status.STOPPED)
    await until(lambda: model.talking == 0)


async def test_a_stop_in_the_writer_s_own_process_needs_nobody(world: World) -> None:
    model, _ = gated()
    process = world.process(model)
    run = await process.ask()
    await shown(run, 7)
    process.runner.halt(run.session.id)
    assert (await answer(run)).reply.status is Status.STOPPED
    await until(lambda: model.talking == 0)
    process.runner.halt("unheard-of")


async def test_stopping_one_leaves_the_other_also_where_the_log_forgot_them(world: World) -> None:
    model, gate = gated()
    process = world.process(model)
    mine, yours = await process.ask(), await process.ask(user="bob")
    await shown(mine, 7)
    await shown(yours, 7)
    world.log._sessions.clear()
    await sessions.stop(process.store, process.log, SESSION_IDS, mine.session.id, "ada")
    assert (await answer(mine)).reply.status is Status.STOPPED
    gate.set()
    assert (await answer(yours)).reply.text == WHOLE
    assert len(model.requests) == 1


async def test_a_stop_before_anybody_reads_asks_nobody(world: World) -> None:
    process = world.process()
    started = await process.start()
    session = await process.store.session(started.session_id)
    await sessions.stop(process.store, process.log, SESSION_IDS, started.session_id, "ada")
    # A reader that looked just before finds out too.
    found = await answer(process.runner.open(session, None))
    assert (found.reply.text, found.reply.status) == ("", Status.STOPPED)
    assert process.model.requests == []


async def test_a_crashed_writer_s_session_is_taken_over(world: World) -> None:
    model, _ = gated()
    here, there = world.process(model), world.process()
    run = await here.ask()
    await shown(run, 7)
    here.crash()
    again = await there.read(run.session.id)
    found = await answer(again)
    assert (found.reply.text, found.saved) == (WHOLE, True)
    assert found.reply.epoch == run.generation.buffer.epoch + 1  # type: ignore[union-attr]
    assert again.source is Source.PROVIDER
    assert (len(model.requests), len(there.model.requests)) == (1, 1)


async def test_followers_of_a_crashed_writer_go_on_together(world: World) -> None:
    model, _ = gated()
    here, there = world.process(model), world.process()
    run = await here.ask()
    others = [await there.ask(user="bob") for _ in range(3)]
    for other in others:
        await shown(other, 7)
    here.crash()
    assert {(await answer(other)).reply.text for other in others} == {WHOLE}
    assert len(there.model.requests) == 1
    assert (await answer(await there.read(run.session.id))).reply.text == WHOLE
    assert len(there.model.requests) == 1


async def test_without_a_log_one_process_writes_and_the_others_wait(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process()
    for process in (here, there):
        process.log_switch.turn_off()
    run = await here.ask()
    await shown(run, 7)
    other = await there.read(run.session.id)
    assert (await there.store.session(run.session.id)).leased
    await asyncio.sleep(0.1)
    gate.set()
    assert (await answer(other)).reply == (await answer(run)).reply
    assert (await answer(other)).reply.text == WHOLE
    assert there.model.requests == []


async def test_a_log_that_goes_away_and_comes_back_costs_nothing(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model), world.process()
    run = await here.ask()
    await shown(run, 7)
    here.log_switch.turn_off()
    await asyncio.sleep(0.05)
    here.log_switch.turn_on()
    gate.set()
    assert (await answer(run)).reply.text == WHOLE
    assert (await answer(await there.ask(user="bob"))).reply.text == WHOLE
    assert there.model.requests == []


async def none_parked(world: World) -> None:
    """Wait until the log keeps no reply for the store any more."""
    async with asyncio.timeout(30):
        while await world.log.parked(9):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.002)


async def test_a_reply_that_cannot_be_saved_is_parked_and_saved_later(world: World) -> None:
    process = world.process(renew_every=0.05, session_lease=0.4)
    started = await process.start()
    process.store_switch.turn_off("finish")
    run = await process.read(started.session_id)
    found = await answer(run)
    assert (found.reply.text, found.saved) == (WHOLE, False)
    assert [entry[0] for entry in await world.log.parked(9)] == [started.session_id]
    process.store_switch.turn_on()
    await none_parked(world)
    assert await process.stored(run) == found.reply


async def parked(world: World) -> tuple[Process, SessionRun, Reply]:
    """Return a process that parked a reply, its run, and the reply."""
    process = world.process()
    started = await process.start()
    process.store_switch.turn_off("finish")
    run = await process.read(started.session_id)
    found = await answer(run)
    assert (found.reply.text, found.saved) == (WHOLE, False)
    return process, run, found.reply


def lapse(world: World) -> None:
    """Forget what logs and caches forget by themselves."""
    world.log._entries.clear()
    world.log._done.clear()


async def test_a_reply_that_a_dead_process_parked_is_read_and_saved_by_the_next(world: World) -> None:
    here, run, reply = await parked(world)
    here.crash()
    lapse(world)
    await world.stage.pass_time(60)
    there = world.process(ScriptedModel(Delta("Another text"), STOP))
    again = await there.read(run.session.id)
    assert await answer(again) == RunResult(reply, saved=True)
    assert await there.stored(again) == reply
    assert there.model.requests == []
    assert await world.log.parked(9) == []


async def test_a_parked_reply_is_waited_for_while_its_process_may_live(world: World) -> None:
    here, run, reply = await parked(world)
    here.crash()
    lapse(world)
    # Somebody else has asked the same, and a later epoch is under way.
    model, gate = gated()
    elsewhere, there = world.process(model), world.process()
    later = await elsewhere.ask(user="bob")
    await shown(later, 7)
    assert (await there.store.session(run.session.id)).leased
    again = await there.read(run.session.id)
    assert await answer(again) == RunResult(reply, saved=True)
    assert there.model.requests == []
    gate.set()
    # The other one's generation goes on without it.
    assert (await answer(later)).reply.text == WHOLE
    assert len(model.requests) == 1


async def test_a_process_shows_what_it_parked_itself_where_no_log_took_it(world: World) -> None:
    process = world.process(renew_every=60)
    started = await process.start()
    process.store_switch.turn_off("finish")
    process.log_switch.turn_off()
    first = await answer(await process.read(started.session_id))
    assert (first.reply.text, first.saved) == (WHOLE, False)
    process.store_switch.turn_on()
    process.model.script = (Delta("Another text"), STOP)
    again = await process.read(started.session_id)
    assert await answer(again) == RunResult(first.reply, saved=True)
    assert len(process.model.requests) == 1


async def test_a_stopped_session_gets_its_parked_reply_whole(world: World) -> None:
    here, run, reply = await parked(world)
    here.crash()
    lapse(world)
    there = world.process()
    await there.store.request_stop(run.session.id, None)
    again = await there.read(run.session.id)
    assert await answer(again) == RunResult(reply, saved=True)
    assert there.model.requests == []


async def test_a_first_reader_does_not_look_for_a_parked_reply(world: World) -> None:
    process = world.process()
    await answer(await process.ask())
    assert process.log_switch.calls["parked_of"] == 0


async def test_a_reply_that_no_store_takes_does_not_stand_before_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = world.process(renew_every=0.05, session_lease=60)
    process.store_switch.turn_off("finish")
    refused, fine = await process.ask(), await process.ask("How?")
    for run in (refused, fine):
        assert not (await answer(run)).saved
    tried = []

    async def finish(session_id: str, reply: Reply, source: str) -> Saved:
        tried.append(session_id)
        if session_id == refused.session.id:
            raise ValueError("what no store takes")
        return Saved()

    monkeypatch.setattr(process.store, "finish", finish)
    await until(lambda: len(tried) == 2)
    await asyncio.sleep(0.2)
    # Each of them once: the first is given up, and the second is saved.
    assert sorted(tried) == sorted([refused.session.id, fine.session.id])


async def test_a_parked_reply_of_a_deleted_session_is_forgotten(world: World) -> None:
    process = world.process(renew_every=0.05, session_lease=0.4)
    started = await process.start()
    process.store_switch.turn_off("finish")
    await answer(await process.read(started.session_id))
    world.stage.database.delete_chat(started.chat_id)
    process.store_switch.turn_on()
    await none_parked(world)


async def test_a_store_that_is_away_is_an_error_worth_a_retry(world: World) -> None:
    process = world.process()
    started = await process.start()
    session = await process.store.session(started.session_id)
    process.store_switch.turn_off()
    found = await answer(process.runner.open(session, None))
    assert isinstance(found.reply.end, Failed)
    assert (found.reply.end.code, found.reply.end.retryable, found.saved) == ("unavailable", True, False)
    process.store_switch.turn_on()
    assert (await answer(await process.read(started.session_id))).reply.text == WHOLE


async def test_a_disabled_user_is_cut_off(world: World) -> None:
    model, _ = gated()
    process = world.process(model, renew_every=0.05, session_lease=0.4)
    run = await process.ask()
    await shown(run, 7)
    await world.stage.disable("ada")
    found = await answer(run)
    assert isinstance(found.reply.end, Failed)
    assert (found.reply.end.code, found.reply.text) == ("user_disabled", "Hello, ")
    await until(lambda: model.talking == 0)


@pytest.mark.parametrize(
    ("script", "text", "outcome", "calls"),
    [
        ((ProviderFault("busy", "Busy.", retryable=True),), "", "busy", 3),
        ((ProviderFault("wrong", "Wrong."),), "", "wrong", 1),
        ((Delta("Half"), ProviderFault("cut", "Cut.", retryable=True)), "Half", "cut", 1),
        ((RuntimeError("a bug"),), "", "internal", 1),
        ((STOP,), "", "empty_reply", 1),
        ((Delta("Half"),), "Half", FinishReason.TRUNCATED, 1),
        ((), "", "provider_interrupted", 3),
        ((Delta("Long"), Finish(FinishReason.LENGTH, "max_tokens")), "Long", FinishReason.LENGTH, 1),
        ((Finish(FinishReason.CONTENT_FILTER, "refusal"),), "", FinishReason.CONTENT_FILTER, 1),
        ((Finish(FinishReason.LENGTH, "length"),), "", FinishReason.LENGTH, 1),
        ((Finish(FinishReason.TRUNCATED, "tool_calls"),), "", "empty_reply", 1),
        ((Delta("\n\n"), STOP), "\n\n", "empty_reply", 1),
        ((Delta(" "), Delta("\u200b"), STOP), " \u200b", "empty_reply", 1),
        ((STOP, Delta("Half")), "Half", FinishReason.TRUNCATED, 1),
        ((STOP, Reasoning("hm")), "", "provider_interrupted", 3),
    ],
)  # fmt: skip
async def test_how_a_provider_may_end(
    world: World, script: tuple[Delta | Finish | Exception, ...], text: str, outcome: str, calls: int
) -> None:
    model = ScriptedModel()
    model.script = script
    process = world.process(model)
    run = await process.ask()
    found = await answer(run)
    end = found.reply.end
    assert (end.code if isinstance(end, Failed) else end.finish_reason) == outcome
    assert (found.reply.text, len(model.requests), model.talking) == (text, calls, 0)
    assert await process.stored(run) == found.reply
    # Nothing of it is given to the next one.
    assert (await answer(await world.process().ask(user="bob"))).reply.text == WHOLE


async def test_a_reply_ends_at_its_deadline(world: World) -> None:
    model, _ = gated()
    process = world.process(model)
    started = await process.start()
    deadline = asyncio.get_running_loop().time() + 0.1
    run = await process.read(started.session_id, deadline)
    found = await answer(run)
    assert (found.reply.text, found.reply.status) == ("Hello, ", Status.TRUNCATED)
    await process.runner.invocations.wait_until_idle(run, deadline + 1)
    assert model.talking == 0


async def follow(world: World, started: Started, writer: Process) -> tuple[Process, SessionRun, SessionRun]:
    """Have a process write a session's reply and another one follow it; return that one, and both runs."""
    written = await writer.read(started.session_id)
    await shown(written, 7)
    process = world.process(writer.model)
    run = await process.read(started.session_id)
    await shown(run, 7)
    return process, written, run


def soon() -> float:
    return asyncio.get_running_loop().time() + 30


async def test_a_follower_for_nobody_is_dropped_while_another_process_answers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    model, gate = gated()
    writer = world.process(model)
    started = await writer.start()
    process, written, run = await follow(world, started, writer)
    await process.runner.invocations.wait_until_idle(run, soon(), let_go=True)
    assert run.task is not None
    assert run.task.done()
    assert (run.result, written.result) == (None, None)
    assert run.generation is not None
    assert run.generation.lost
    # Who comes back to this process reads on as before.
    again = await process.read(started.session_id)
    assert again is not run
    assert await shown(again, 7) == "Hello, "
    with caplog.at_level("INFO"):
        gate.set()
        assert (await answer(written)).reply.text == (await answer(again)).reply.text == WHOLE
        await until(lambda: caplog.messages.count("reply_ended") == 2)
    assert len(model.requests) == 1


async def test_who_writes_or_has_the_lease_or_another_reader_is_waited_for(world: World) -> None:
    model, gate = gated()
    writer = world.process(model)
    started = await writer.start()
    process, written, run = await follow(world, started, writer)
    # Another session whose lease is this process's, though another one writes its reply.
    joined = await process.ask(user="bob")
    await shown(joined, 7)
    read_here = await world.process(model).read(started.session_id)
    await shown(read_here, 7)
    reader = Reader(read_here, None, hinted=False, heartbeat=5)
    reader.begin(lambda: None)
    waits = [
        asyncio.create_task(one.runner.invocations.wait_until_idle(each, soon(), let_go=True))
        for one, each in ((writer, written), (process, joined), (world.processes[-1], read_here))
    ]
    await process.runner.invocations.wait_until_idle(run, soon(), let_go=True)
    await asyncio.sleep(0.5)
    assert not any(wait.done() for wait in waits)
    gate.set()
    await asyncio.gather(*waits)
    assert {each.result.reply.text for each in (written, joined, read_here) if each.result} == {WHOLE}
    reader.leave()


async def test_a_reader_is_released_where_its_process_is_not_needed(world: World) -> None:
    model, gate = gated()
    writer = world.process(model)
    started = await writer.start()
    process, written, run = await follow(world, started, writer)
    readers = []
    for one, each in ((writer, written), (process, run)):
        readers.append(
            Reader(
                each, None, hinted=False, heartbeat=5, release=partial(one.runner.invocations.release, each)
            )
        )
        readers[-1].begin(lambda: None)
        readers[-1].let_go()
    here, there = readers
    await until(lambda: there.is_let_go)
    there.take()
    assert there.over
    # The process that writes goes on anyway, and so does its reader.
    await asyncio.sleep(0.5)
    assert (here.is_let_go, here.over) == (False, False)
    gate.set()
    await answer(written)
    assert b'"type":"done"' in here.take()


async def test_a_run_is_dropped_as_soon_as_that_can_be_known(world: World) -> None:
    model, gate = gated()
    writer = world.process(model)
    started = await writer.start()
    process, written, run = await follow(world, started, writer)
    process.store_switch.turn_off("reply")
    wait = asyncio.create_task(process.runner.invocations.wait_until_idle(run, soon(), let_go=True))
    await until(lambda: process.store_switch.calls["reply"] > 1)
    assert not wait.done()
    process.store_switch.turn_on()
    await wait
    assert run.result is None
    gate.set()
    await answer(written)


async def test_a_session_whose_follower_was_dropped_is_taken_over_by_the_next_reader(world: World) -> None:
    model, gate = gated()
    writer = world.process(model)
    started = await writer.start()
    process, written, run = await follow(world, started, writer)
    await process.runner.invocations.wait_until_idle(run, soon(), let_go=True)
    writer.crash()
    gate.set()
    again = await process.read(started.session_id)
    found = await answer(again)
    assert (found.reply.text, found.saved) == (WHOLE, True)
    assert found.reply.epoch > written.session.epoch
    assert len(model.requests) == 2


async def test_closing_saves_what_there_is(world: World) -> None:
    model, _ = gated()
    process = world.process(model)
    run = await process.ask()
    await shown(run, 7)
    await process.runner.close()
    found = await answer(run)
    assert (found.reply.text, found.reply.status, found.saved) == ("Hello, ", Status.TRUNCATED, True)
    assert await process.stored(run) == found.reply
    assert model.talking == 0


async def test_a_session_that_is_gone_ends_its_run(world: World) -> None:
    process = world.process()
    started = await process.start()
    session = await process.store.session(started.session_id)
    world.stage.database.delete_chat(started.chat_id)
    found = await answer(process.runner.open(session, None))
    assert isinstance(found.reply.end, Failed)
    assert found.reply.end.code == NotFound.code
    assert process.model.requests == []


async def test_a_pulse_keeps_the_sessions_of_long_replies(world: World) -> None:
    model, gate = gated()
    here, there = world.process(model, renew_every=0.1, session_lease=0.5), world.process()
    run = await here.ask()
    await shown(run, 7)
    await asyncio.sleep(1)
    session = await there.store.session(run.session.id)
    assert (session.leased, session.state) == (True, SessionState.STREAMING)
    assert await there.store.orphans(0, 9) == []
    gate.set()
    await answer(run)
