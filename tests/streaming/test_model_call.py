"""How long a model is waited for, how often it is asked, with what, and what that costs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace as changed

from parley.domain.conversation import LeftOut, ModelOptions
from parley.domain.errors import ContextTooLong, ProviderFault
from parley.domain.events import (
    Completed,
    Counted,
    Delta,
    Failed,
    Finish,
    FinishReason,
    ModelEvent,
    Ping,
    Reasoning,
    Spent,
    Status,
    StreamState,
    Usage,
)
from parley.domain.ports import ModelRequest
from parley.usecases import sessions
from tests.in_memory import LIMITS, SESSION_IDS, STOP, ScriptedModel, Step, World, answer, shown, until

LOADING = ProviderFault("provider_loading", "Loading.", retryable=True)
BUSY = ProviderFault("provider_overloaded", "Busy.", retryable=True)
LENGTH = Finish(FinishReason.LENGTH, "length")


class Calls(ScriptedModel):
    """Says another script each time it is asked, the last one for ever."""

    def __init__(self, *scripts: tuple[Step, ...]) -> None:
        super().__init__()
        self._scripts = list(scripts)

    async def stream(self, question: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        async for event in super().stream(question):
            yield event


class Narrow(ScriptedModel):
    """Refuses more turns than it has room for; `counts` makes its error."""

    def __init__(self, room: int, counts: Callable[[int], ContextTooLong]) -> None:
        super().__init__()
        self._room = room
        self._counts = counts
        self.fails = False

    async def stream(self, question: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        size = sum(len(turn.text) for turn in question.turns)
        if size > self._room:
            self.requests.append(question)
            raise self._counts(size)
        if self.fails:
            raise ProviderFault("provider_bad_request", "No.")
        async for event in super().stream(question):
            yield event


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await World().open()
    yield made
    await made.close()


def limits(**changes: Any) -> Any:
    return LIMITS.__class__(**{name: getattr(LIMITS, name) for name in LIMITS.__dataclass_fields__} | changes)


def give_options(world: World, **options: Any) -> None:
    row = world.stage.database.models["small"]
    row.model = changed(row.model, options=ModelOptions(**options))


# -- patience --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [Ping(), Reasoning("hm"), Counted(7, None)])
async def test_the_first_token_is_waited_for_longer_than_the_others(world: World, first: ModelEvent) -> None:
    model = ScriptedModel(first, 0.5, Delta("Hi"), STOP)
    process = world.process(model, limits=limits(first_token=30, gap=0.1, total=60))
    assert (await answer(await process.ask())).reply.text == "Hi"
    assert len(model.requests) == 1


async def test_a_model_that_is_silent_for_too_long_is_not_asked_again(world: World) -> None:
    model = ScriptedModel(Ping(), 30.0)
    process = world.process(model, limits=limits(first_token=0.2))
    end = (await answer(await process.ask())).reply.end
    assert isinstance(end, Failed)
    assert (end.code, end.retryable) == ("provider_timeout", True)
    assert (len(model.requests), model.talking) == (1, 0)


async def test_the_silence_after_text_has_the_bound_of_a_gap(world: World) -> None:
    model = ScriptedModel(Delta("Half"), 30.0)
    process = world.process(model, limits=limits(first_token=60, gap=0.2, total=60))
    found = await answer(await process.ask())
    assert isinstance(found.reply.end, Failed)
    assert (found.reply.end.code, found.reply.text) == ("provider_timeout", "Half")


async def test_a_finish_reason_is_the_end_where_nothing_follows_in_time(world: World) -> None:
    for script in ((Delta("Whole."), STOP, 30.0), (Delta("Who"), STOP, 0.1, Delta("le."), STOP, 30.0)):
        model = ScriptedModel(*script)
        process = world.process(model, limits=limits(first_token=60, gap=1.0, total=60))
        found = await answer(await process.ask(f"{len(script)} steps?"))
        assert (found.reply.text, found.reply.status) == ("Whole.", Status.COMPLETE)
        assert model.talking == 0


async def test_the_model_s_row_has_bounds_of_its_own(world: World) -> None:
    give_options(world, first_token_seconds=0.2, attempts=1)
    model = ScriptedModel(Ping(), 30.0)
    end = (await answer(await world.process(model, limits=limits(first_token=60)).ask())).reply.end
    assert isinstance(end, Failed)
    assert end.code == "provider_timeout"
    model = ScriptedModel(BUSY)
    await answer(await world.process(model).ask("Again?"))
    assert len(model.requests) == 1


async def test_a_server_that_loads_its_model_is_waited_for(world: World) -> None:
    model = Calls(*[(LOADING,)] * 8, (Delta("Hi"), STOP))
    process = world.process(model, limits=limits(first_token=60, total=60))
    run = await process.ask()
    assert (await answer(run)).reply.text == "Hi"
    assert len(model.requests) == 9
    assert run.generation is not None
    assert run.generation.buffer.status is StreamState.RETRYING


async def test_a_server_that_loads_for_ever_is_given_up(world: World) -> None:
    model = ScriptedModel(LOADING)
    process = world.process(model, limits=limits(first_token=0.5, total=60))
    end = (await answer(await process.ask())).reply.end
    assert isinstance(end, Failed)
    assert (end.code, end.retryable) == ("provider_loading", True)
    assert end.retry_after_ms
    assert len(model.requests) > LIMITS.attempts


async def test_a_server_that_loads_is_not_waited_for_beyond_the_deadline(world: World) -> None:
    process = world.process(ScriptedModel(LOADING), limits=limits(first_token=600, total=600))
    started = await process.start()
    run = await process.read(started.session_id, asyncio.get_running_loop().time() + 0.5)
    end = (await answer(run)).reply.end
    assert isinstance(end, Failed)
    assert end.code == "provider_loading"


async def test_loading_counts_as_no_attempt(world: World) -> None:
    model = Calls((LOADING,), (LOADING,), (BUSY,), (LOADING,), (BUSY,), (Delta("Hi"), STOP))
    process = world.process(model, limits=limits(first_token=60, total=60))
    assert (await answer(await process.ask())).reply.text == "Hi"


# -- context ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [lambda size: ContextTooLong(size, 60), lambda _: ContextTooLong()])
async def test_a_context_that_is_too_long_is_asked_again_with_fewer_turns(
    world: World, counts: Callable[[int], ContextTooLong]
) -> None:
    model = Narrow(60, counts)
    process = world.process(model)
    chat = None
    for number in range(6):
        run = await process.ask(f"Question {number}?", chat_id=chat)
        found = await answer(run)
        assert found.reply.status is Status.COMPLETE
        chat = run.session.chat_id
        asked = model.requests[-1].turns
        assert asked[-1].text == f"Question {number}?"
        assert len(asked) % 2 == 1
        # What the provider refused is told, by the message that the question now begins with.
        assert run.generation is not None
        missing = run.left_out_of(run.generation.buffer.turns_sent)
        if len(asked) == 2 * number + 1:
            assert missing is None
        else:
            assert missing == LeftOut(2 * number + 1 - len(asked), asked[0].message_id)
    # What was not answered counts too where it lies above.
    model.fails = True
    failed = await process.ask("Lost?", chat_id=chat)
    await answer(failed)
    model.fails = False
    for number in range(6, 9):
        run = await process.ask(f"Question {number}?", chat_id=chat)
        await answer(run)
        assert run.generation is not None
        missing = run.left_out_of(run.generation.buffer.turns_sent)
        assert missing is not None
        shown = (await process.store.history("ada", run.session.chat_id, None, 99)).messages
        assert [message.id for message in shown].index(missing.first_sent) == missing.messages
    assert len(model.requests) > 6
    assert len(model.requests[-1].turns) > 1


async def test_a_question_that_is_too_long_alone_says_so(world: World) -> None:
    model = Narrow(30, lambda size: ContextTooLong(size, 30))
    process = world.process(model)
    first = await process.ask("Short?")
    await answer(first)
    found = await answer(await process.ask("x" * 31, chat_id=first.session.chat_id))
    assert isinstance(found.reply.end, Failed)
    assert (found.reply.end.code, found.reply.end.retryable) == ("context_too_long", False)
    assert [len(question.turns) for question in model.requests] == [1, 3, 1]
    again = await answer(await process.ask("Short again?", chat_id=first.session.chat_id))
    assert again.reply.status is Status.COMPLETE


# -- what is charged -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "end", "charged"),
    [
        ((Reasoning("x" * 40), LENGTH),
         Completed(FinishReason.LENGTH, "length", None, Spent(None, 10)), (1, 10)),
        ((Reasoning("x" * 40), Finish(FinishReason.LENGTH, "length", Usage(3, 90))),
         Completed(FinishReason.LENGTH, "length", Usage(3, 90)), (3, 90)),
        ((Delta("\n"), Finish(FinishReason.STOP, "stop", Usage(3, 90))),
         Failed("empty_reply", "The model returned an empty reply.", True, None, Spent(3, 90)), (3, 90)),
        ((Counted(105_000, None), Delta("x" * 8), BUSY),
         Failed("provider_overloaded", "Busy.", True, 20, Spent(105_000, 2)), (105_000, 2)),
        ((Counted(7, 5), Delta("x" * 8), Counted(7, 50)),
         Completed(FinishReason.TRUNCATED, None, None, Spent(7, 50)), (7, 50)),
        ((Counted(105_000, None), BUSY), Failed("provider_overloaded", "Busy.", True, 80), (0, 0)),
        ((BUSY,), Failed("provider_overloaded", "Busy.", True, 80), (0, 0)),
    ],
)  # fmt: skip
async def test_what_was_produced_is_charged_however_it_ended(
    world: World, script: tuple[Step, ...], end: Completed | Failed, charged: tuple[int, int]
) -> None:
    process = world.process(ScriptedModel(*script))
    found = await answer(await process.ask("Why?"))
    assert found.reply.end == end
    assert (await world.stage.used("ada")).get("small", (0, 0)) == charged


@pytest.mark.parametrize(
    ("told", "charged"),
    [
        ((Counted(105_000, None), Delta("x" * 8)), (105_000, 2)),
        ((Reasoning("x" * 400),), (1, 100)),
        ((Counted(105_000, 7), Reasoning("x" * 8), Delta("x")), (105_000, 7)),
    ],
)
async def test_a_stop_costs_what_was_told_and_produced_by_then(
    world: World, told: tuple[ModelEvent, ...], charged: tuple[int, int]
) -> None:
    model = ScriptedModel(*told, asyncio.Event())
    process = world.process(model)
    run = await process.ask("Why?")
    await shown(run, 1 if isinstance(told[-1], Delta) else 0)
    await until(lambda: model.talking == 1)
    await asyncio.sleep(0.01)
    await sessions.stop(process.store, process.log, SESSION_IDS, run.session.id, "ada")
    found = await answer(run)
    assert found.reply.status is Status.STOPPED
    assert (await world.stage.used("ada"))["small"] == charged


@pytest.mark.parametrize("by", [0, 1])
async def test_a_stop_costs_the_same_where_another_process_reads_along(world: World, by: int) -> None:
    model = ScriptedModel(Counted(105_000, None), Reasoning("x" * 400), asyncio.Event())
    processes = [world.process(model), world.process()]
    run = await processes[0].ask("Why?")
    await until(lambda: model.talking == 1)
    other = await processes[1].read(run.session.id)
    await until(lambda: other.generation is not None)
    stopping = processes[by]
    await sessions.stop(stopping.store, stopping.log, SESSION_IDS, run.session.id, "ada")
    assert (await answer(run)).reply.status is Status.STOPPED
    assert (await answer(other)).reply.status is Status.STOPPED
    assert (await world.stage.used("ada"))["small"] == (105_000, 100)


async def test_a_reply_has_no_more_characters_than_allowed_however_they_come(world: World) -> None:
    for script in ((Delta("x" * 25),), (Delta("x" * 9), Delta("x" * 9))):
        process = world.process(ScriptedModel(*script, STOP), limits=limits(characters=10))
        found = await answer(await process.ask(f"{script}?"))
        assert (found.reply.text, found.reply.status) == ("x" * 10, Status.TRUNCATED)


async def test_only_the_last_attempt_is_charged(world: World) -> None:
    model = Calls((Counted(100, 50), Reasoning("x" * 400), BUSY), (Delta("Hi"),))
    process = world.process(model)
    await answer(await process.ask("Why?"))
    assert (await world.stage.used("ada"))["small"] == (1, 1)
