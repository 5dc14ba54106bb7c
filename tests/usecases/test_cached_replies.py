"""Replies that are known when they are asked for, on a store and a log in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from parley.domain.conversation import Started
from parley.domain.events import Source
from parley.usecases import sessions
from parley.usecases.sessions import StartRequest
from tests.in_memory import SESSION_IDS, Process, World, answer

ASK = StartRequest("ada", "Why?", "small", None, regenerate=False, idempotency_key=None)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().open()
    yield made
    await made.close()


async def start(process: Process, **fields: Any) -> Started:
    return await sessions.start(
        process.store, process.cached_replies, SESSION_IDS, replace(ASK, **fields), prompt_characters=1000
    )


async def knowing(world: World, **policy: Any) -> Process:
    """Return a process that has opened a session for the model before, where somebody was answered."""
    process = world.process(**policy)
    await answer(await process.read((await start(process)).session_id))
    assert len(process.model.requests) == 1
    return process


async def test_a_known_reply_is_there_at_once(world: World) -> None:
    process = await knowing(world)
    started = await start(process, user_id="bob")
    assert started.answered
    run = await process.read(started.session_id)
    assert run.result is not None
    assert run.result.saved
    assert (run.source, run.result.reply.text) == (Source.CACHE, "Hello, world!")
    assert len(process.model.requests) == 1


async def test_a_model_is_known_once_a_session_was_opened_for_it(world: World) -> None:
    await knowing(world)
    other = world.process()
    assert not (await start(other)).answered
    assert (await start(other)).answered
    assert other.model.requests == []


@pytest.mark.parametrize("fields", [{"prompt": "Why not?"}, {"regenerate": True}])
async def test_any_other_question_is_not_known(world: World, fields: dict[str, Any]) -> None:
    process = await knowing(world)
    assert not (await start(process, **fields)).answered


async def test_a_question_in_a_chat_is_told_by_its_context(world: World) -> None:
    process = await knowing(world)
    chat_id = (await start(process)).chat_id
    assert not (await start(process, chat_id=chat_id)).answered


async def test_users_share_only_what_the_settings_let_them(world: World) -> None:
    process = await knowing(world, share_context_free=False)
    assert not (await start(process, user_id="bob")).answered
    assert (await start(process)).answered


async def test_a_changed_model_has_no_known_replies(world: World) -> None:
    process = await knowing(world)
    await world.stage.change_model("small")
    for _ in range(2):
        started = await start(process)
        assert not started.answered
    # It was told the change at the first.
    await answer(await process.read(started.session_id))
    assert (await start(process)).answered


async def test_without_a_log_nothing_is_known_and_nothing_fails(world: World) -> None:
    process = await knowing(world)
    process.log_switch.turn_off()
    assert not (await start(process)).answered
    process.log_switch.turn_on()
    assert (await start(process)).answered


async def test_what_is_known_is_reported(world: World, caplog: pytest.LogCaptureFixture) -> None:
    process = await knowing(world)
    caplog.clear()
    with caplog.at_level("INFO"):
        await start(process)
        await asyncio.sleep(0)
    # The reply that was written before reports its own end, a turn of the event loop later.
    ended = [record for record in caplog.records if record.message == "reply_ended"]
    [line] = [record for record in ended if vars(record)["source"] == "cache"]
    said = {name: getattr(line, name) for name in ("source", "model", "status", "saved", "characters")}
    assert said == {
        "source": "cache", "model": "small", "status": "complete", "saved": True, "characters": 13,
    }  # fmt: skip
