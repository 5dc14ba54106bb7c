"""Starting and stopping, on a store and a log in memory."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from parley.domain.conversation import Reply, Started
from parley.domain.errors import (
    ChatBusy,
    ChatMoved,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    ParleyError,
    TooLarge,
    UnknownModel,
)
from parley.domain.events import Completed, FinishReason, Status
from parley.domain.ids import SessionIds
from parley.domain.ports import Store
from parley.domain.results import Append
from parley.usecases import sessions
from parley.usecases.sessions import StartRequest
from tests.in_memory import SESSION_IDS, World

ASK = StartRequest("ada", "Why?", "small", None, regenerate=False, idempotency_key=None)
STOP = Completed(FinishReason.STOP)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().open()
    yield made
    await made.close()


async def start(world: World, **fields: Any) -> Any:
    process = world.process()
    return await sessions.start(
        process.store, process.cached_replies, SESSION_IDS, replace(ASK, **fields), prompt_characters=20
    )


async def test_a_start_makes_ids_that_nobody_guesses_and_a_title(world: World) -> None:
    one, other = await start(world), await start(world)
    ids = {one.session_id, one.chat_id, one.message_id, one.reply_id, other.session_id, other.chat_id}
    assert len(ids) == 6
    assert all(SESSION_IDS.verify(started.session_id) for started in (one, other))
    page = await world.stage.store().history("ada", one.chat_id, None, 9)
    assert page.title == "Why?"


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"prompt": None}, InvalidRequest, "prompt"),
        ({"prompt": None, "regenerate": True}, InvalidRequest, "prompt"),
        ({"prompt": None, "chat_id": "c"}, InvalidRequest, "prompt"),
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"prompt": "", "regenerate": True}, InvalidRequest, "prompt"),
        ({"prompt": "", "chat_id": "c"}, InvalidRequest, "prompt"),
        ({"prompt": " \n\u2003"}, InvalidRequest, "prompt"),
        ({"prompt": "x" * 21}, TooLarge, "prompt"),
        ({"prompt": "a\0b"}, InvalidRequest, "prompt"),
        ({"prompt": "a\ud83d"}, InvalidRequest, "prompt"),
        ({"chat_id": "no id"}, NotFound, None),
        ({"chat_id": ""}, NotFound, None),
        ({"chat_id": "x" * 65}, NotFound, None),
        ({"model_id": "a\0b"}, UnknownModel, "modelId"),
        ({"model_id": ""}, UnknownModel, "modelId"),
        ({"parent_id": "m"}, InvalidRequest, "parentId"),
        ({"replaces": "m", "prompt": None}, InvalidRequest, "replaces"),
        ({"parent_id": "no id", "chat_id": "c"}, InvalidRequest, "parentId"),
        ({"parent_id": "", "chat_id": "c"}, InvalidRequest, "parentId"),
        ({"replaces": "a\0b", "chat_id": "c", "prompt": None}, InvalidRequest, "replaces"),
        ({"replaces": "m", "chat_id": "c"}, InvalidRequest, "prompt"),
        ({"replaces": "m", "parent_id": "m", "chat_id": "c", "prompt": None}, InvalidRequest, "replaces"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(
    world: World, fields: dict[str, Any], error: type[ParleyError], field: str | None
) -> None:
    with pytest.raises(error) as refusal:
        await start(world, **fields)
    assert (type(refusal.value), refusal.value.field) == (error, field)
    assert world.stage.database.messages == {}


async def test_the_longest_prompt_is_taken_as_it_is(world: World) -> None:
    prompt = "😀\u2028\r\n </p>e\u0301" + "x" * 9
    assert len(prompt) == 20
    started = await start(world, prompt=prompt)
    assert world.stage.database.messages[started.message_id].text == prompt


@pytest.mark.parametrize(
    "other", [{"prompt": "Other?"}, {"model_id": "large"}, {"chat_id": "c"}, {"regenerate": True}]
)
async def test_a_key_stands_for_the_whole_request(world: World, other: dict[str, Any]) -> None:
    first = await start(world, idempotency_key="k", user_id="bob")
    assert await start(world, idempotency_key="k", user_id="bob") == first
    with pytest.raises(IdempotencyConflict):
        await start(world, idempotency_key="k", user_id="bob", **other)


async def test_regenerate_needs_no_prompt(world: World) -> None:
    first = await start(world)
    with pytest.raises(ChatBusy) as busy:
        await start(world, prompt=None, chat_id=first.chat_id, regenerate=True)
    assert busy.value.details() == {"active_session_id": first.session_id}
    await world.stage.store().finish(first.session_id, Reply(1, "x", STOP), "provider")
    again = await start(world, prompt=None, chat_id=first.chat_id, regenerate=True)
    assert again.message_id == first.message_id


async def test_a_start_that_does_not_know_the_chat_s_end_is_told_what_is_new(world: World) -> None:
    store = world.stage.store()
    first = await start(world)
    await store.finish(first.session_id, Reply(1, "x", STOP), "provider")
    second = await start(world, chat_id=first.chat_id, parent_id=first.reply_id, prompt="Two?")
    await store.finish(second.session_id, Reply(2, "y", STOP), "provider")
    page = await store.history("ada", first.chat_id, None, 9)
    for fields in ({"parent_id": first.reply_id}, {"replaces": first.reply_id, "prompt": None}):
        with pytest.raises(ChatMoved) as moved:
            await start(world, chat_id=first.chat_id, **fields)
        news = moved.value.news
        assert news is not None
        # From the question of what is known, since its replies may have changed too.
        assert (news.messages, news.revision) == (page.messages, page.revision)


async def test_what_is_known_of_a_chat_is_no_part_of_an_order_that_is_sent_again(world: World) -> None:
    store = world.stage.store()
    first = await start(world)
    await store.finish(first.session_id, Reply(1, "x", STOP), "provider")
    order: dict[str, Any] = {"chat_id": first.chat_id, "idempotency_key": "k"}
    second = await start(world, parent_id=first.reply_id, **order)
    # The answer was lost; by now the page shows what came of the order.
    await store.finish(second.session_id, Reply(2, "y", STOP), "provider")
    for known in (first.reply_id, second.reply_id, None):
        assert await start(world, parent_id=known, **order) == second
    assert len(world.stage.database.messages) == 4


async def test_a_key_stands_for_the_reply_that_is_replaced(world: World) -> None:
    first = await start(world)
    await world.stage.store().finish(first.session_id, Reply(1, "x", STOP), "provider")
    order: dict[str, Any] = {"chat_id": first.chat_id, "prompt": None, "idempotency_key": "k"}
    again = await start(world, replaces=first.reply_id, **order)
    assert (again.message_id, await start(world, replaces=first.reply_id, **order)) == (
        first.message_id,
        again,
    )
    # `regenerate` says what `replaces` implies.
    assert await start(world, replaces=first.reply_id, regenerate=True, **order) == again
    with pytest.raises(IdempotencyConflict):
        await start(world, replaces=again.reply_id, **order)


@pytest.mark.parametrize("empty", ["", " ", "\r\n\t\u2003", " " * 21])
async def test_an_empty_prompt_is_none_where_the_last_question_is_asked_again(
    world: World, empty: str
) -> None:
    first = await start(world)
    await world.stage.store().finish(first.session_id, Reply(1, "x", STOP), "provider")
    fields = {"chat_id": first.chat_id, "regenerate": True, "idempotency_key": "k"}
    again = await start(world, prompt=empty, **fields)
    assert again.message_id == first.message_id
    # It is the same request, so the key stands for both spellings.
    assert await start(world, prompt=None, **fields) == again
    with pytest.raises(IdempotencyConflict):
        await start(world, prompt="Why?", **fields)


# -- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_id", "statements"),
    [
        ("unheard-of", 0),
        ("", 0),
        ("no id", 0),
        ("x" * 65, 0),
        ("a\0b", 0),
        pytest.param(SessionIds("another secret").new(), 0, id="forged"),
        # An id of the release before tells nothing of itself.
        ("x" * 32, 1),
        pytest.param(SESSION_IDS.new(), 1, id="never used"),
    ],
)
async def test_what_is_not_there_cannot_be_stopped(world: World, session_id: str, statements: int) -> None:
    process = world.process()
    with pytest.raises(NotFound):
        await sessions.stop(process.store, process.log, SESSION_IDS, session_id, "ada")
    assert process.store_switch.calls.total() == statements


async def half_answered(world: World, store: Store) -> tuple[Started, int]:
    """Start a session whose writer is gone after the first word. Return its epoch too."""
    started = await start(world)
    joined = await world.log.join("key", started.session_id, "writer", epoch=0, may_create=True)
    epoch = joined.epoch  # type: ignore[union-attr]
    await world.log.flush([Append("key", epoch, "writer", 4, "Half", ["Half"])])
    await store.attach(started.session_id, "key", epoch, 0, writer=True)
    return started, epoch


async def test_stopping_what_nobody_answers_any_more_saves_what_the_log_has(world: World) -> None:
    store = world.stage.store()
    started, epoch = await half_answered(world, store)
    for _ in range(2):
        await sessions.stop(store, world.log, SESSION_IDS, started.session_id, "ada")
        _, reply = await store.reply(started.session_id)
        assert reply == Reply(epoch, "Half", Completed(FinishReason.STOPPED))


async def test_stopping_what_has_a_parked_reply_saves_all_of_it(world: World) -> None:
    store = world.stage.store()
    started, epoch = await half_answered(world, store)
    whole = Reply(epoch, "Half and half", Completed(FinishReason.STOP))
    await world.log.park(started.session_id, whole, "provider")
    for _ in range(2):
        await sessions.stop(store, world.log, SESSION_IDS, started.session_id, "ada")
        assert (await store.reply(started.session_id))[1] == whole
    assert await world.log.parked(9) == []


async def test_stopping_what_is_answered_elsewhere_leaves_the_end_to_it(world: World) -> None:
    store = world.stage.store()
    started = await start(world)
    await world.log.join("key", started.session_id, "writer", epoch=0, may_create=True)
    await store.attach(started.session_id, "key", 5, 60, writer=True)
    await sessions.stop(store, world.log, SESSION_IDS, started.session_id, None)
    assert await store.reply(started.session_id) == (False, None)
    assert not (await world.log.read("key", 5, 0)).stops
    assert world.stage.database.sessions[started.session_id].stop_requested


async def test_stopping_without_a_log(world: World) -> None:
    process = world.process()
    process.log_switch.turn_off()
    started = await start(world)
    await process.store.attach(started.session_id, "key", 5, 0, writer=True)
    await sessions.stop(process.store, process.log, SESSION_IDS, started.session_id, "ada")
    _, reply = await process.store.reply(started.session_id)
    assert reply is not None
    assert (reply.text, reply.status) == ("", Status.STOPPED)
