"""What every `ports.Store` must do; each test file runs it on one.

Two stores of a stage are two processes on the same data. A lease or a session of 0 seconds has run out
by the next call, so nothing here waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from msgspec.structs import replace

from parley.domain.conversation import Message, Model, Reply, Role, SessionState, Started, Turn
from parley.domain.errors import (
    ChatBusy,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotInPlan,
    NotFound,
    ParleyError,
    SessionExpired,
    UnknownModel,
    UserDisabled,
)
from parley.domain.events import Completed, End, Failed, FinishReason, Status, Usage
from parley.domain.ports import Store
from parley.domain.prompt import normalise, trim
from parley.domain.results import Attached, Ended, LeaseStatus, Orphan, Overtaken, Saved, Stop, Stopping
from parley.support.encoding import INVISIBLE, is_blank
from tests.conformance.backends import Stage
from tests.conformance.requests import STOP, new_session, turn

FAILED = Failed("provider_overloaded", "Busy.", retryable=True, retry_after_ms=1500)
KNOWN = Reply(7, "é😀\u2028\r\n</script>", STOP)
NASTY = "é😀\u2028\r\n\\u0000 </script>"


async def messages(store: Store, chat_id: str) -> tuple[Message, ...]:
    return (await store.history("ada", chat_id, None, 100)).messages


async def refusal(work: Awaitable[object]) -> type[ParleyError]:
    with pytest.raises(ParleyError) as caught:
        await work
    return caught.type


class StoreFixtures:
    """A stage with two users, and two stores on it; subclasses make the stage."""

    @pytest.fixture
    def bare_stage(self) -> Stage:
        raise NotImplementedError

    @pytest.fixture
    async def stage(self, bare_stage: Stage) -> AsyncIterator[Stage]:
        await bare_stage.add_user("ada", "free")
        await bare_stage.add_user("bob", "pro")
        yield bare_stage
        await bare_stage.close()

    @pytest.fixture
    def store(self, stage: Stage) -> Store:
        return stage.store("here")

    @pytest.fixture
    def other(self, stage: Stage) -> Store:
        return stage.store("there")


class StoreSuite(StoreFixtures):
    """All but what `limit_suite` has."""

    # -- start -----------------------------------------------------------------------------------

    async def test_a_start_keeps_the_prompt_and_opens_a_session(self, store: Store) -> None:
        asked = new_session(NASTY)
        started = await store.start(asked)
        assert started.session_id == asked.new_session_id
        assert started.chat_id == asked.new_chat_id
        page = await store.history("ada", started.chat_id, None, 10)
        assert page.title == asked.title
        assert page.active_session_id == started.session_id
        prompt, reply = page.messages
        assert (prompt.id, prompt.role, prompt.status) == (started.message_id, Role.USER, Status.COMPLETE)
        assert (prompt.text, prompt.position, prompt.model_id) == (NASTY, 1, None)
        assert prompt.completed_at is not None
        assert (reply.id, reply.role, reply.status) == (started.reply_id, Role.ASSISTANT, Status.PENDING)
        assert (reply.text, reply.position, reply.reply_to) == ("", 2, prompt.id)
        assert (reply.model_id, reply.completed_at, reply.source) == ("small", None, None)
        assert 595 < (started.expires_at - prompt.created_at).total_seconds() < 605

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"user": "nobody"}, NotFound),
            ({"user": "eve"}, UserDisabled),
            ({"model": "unheard-of"}, UnknownModel),
            ({"model": "hidden"}, UnknownModel),
            ({"model": "large"}, ModelNotInPlan),
            ({"chat_id": "no-chat"}, NotFound),
            ({"chat_id": "chat of bob"}, NotFound),
            ({"chat_id": "chat of ada", "regenerate": True, "prompt": "Other?"}, InvalidRequest),
        ],
    )
    async def test_a_refused_start_leaves_nothing(
        self, stage: Stage, store: Store, fields: dict[str, str], expected: type[ParleyError]
    ) -> None:
        await stage.add_user("eve", "pro")
        await stage.disable("eve")
        for user in ("ada", "bob"):
            await turn(store, "Why?", user=user, new_chat_id=f"chat of {user}")
        assert await refusal(store.start(new_session(**fields))) is expected
        assert [len((await store.chats(user, None, 9)).chats) for user in ("ada", "bob")] == [1, 1]
        for user in ("ada", "bob"):
            assert len((await store.history(user, f"chat of {user}", None, 9)).messages) == 2

    async def test_users_are_made_only_where_that_is_wanted(self, stage: Stage) -> None:
        store = stage.store(create_users=True)
        started = await store.start(new_session(user="new"))
        assert (await store.session(started.session_id)).user_id == "new"
        # On the default plan, which does not include everything.
        assert await refusal(store.start(new_session(user="new", model="large"))) is ModelNotInPlan

    async def test_a_new_user_may_look_before_asking(self, stage: Stage) -> None:
        store = stage.store(create_users=True)
        assert (await store.chats("new", None, 9)).chats == ()
        assert [model.in_plan for model in await store.models("newer")] == [True, False]
        assert await refusal(stage.store().chats("newest", None, 9)) is NotFound

    async def test_the_same_order_again_changes_nothing(self, store: Store, other: Store) -> None:
        asked = new_session()
        first = await store.start(asked)
        assert await other.start(asked) == first
        assert len(await messages(store, first.chat_id)) == 2

    async def test_an_idempotency_key_finds_the_first_one_s_session(self, store: Store, other: Store) -> None:
        first = await store.start(new_session(idempotency_key="k"))
        assert await other.start(new_session(idempotency_key="k")) == first
        await store.finish(first.session_id, Reply(1, "Done.", STOP), "provider")
        assert (await store.start(new_session(idempotency_key="k"))).session_id == first.session_id
        assert [chat.chat_id for chat in (await store.chats("ada", None, 9)).chats] == [first.chat_id]

    async def test_an_idempotency_key_is_its_user_s_and_its_request_s(self, store: Store) -> None:
        first = await store.start(new_session(idempotency_key="k"))
        assert await refusal(store.start(new_session("Other?", idempotency_key="k"))) is IdempotencyConflict
        assert (
            await store.start(new_session(user="bob", idempotency_key="k"))
        ).session_id != first.session_id
        # Somebody else's session id is nobody's either.
        stolen = new_session(user="bob", new_session_id=first.session_id)
        assert await refusal(store.start(stolen)) is IdempotencyConflict

    async def test_equal_starts_at_the_same_instant_make_one_turn(self, store: Store, other: Store) -> None:
        orders = [new_session(idempotency_key="k") for _ in range(8)]
        stores = [store, other] * 4
        started = await asyncio.gather(
            *(place.start(asked) for place, asked in zip(stores, orders, strict=True))
        )
        assert len({(each.session_id, each.chat_id, each.reply_id, each.expires_at) for each in started}) == 1
        assert len((await store.chats("ada", None, 9)).chats) == 1

    # -- a start whose reply is known ------------------------------------------------------------

    async def test_a_known_reply_is_saved_with_its_session(self, store: Store, other: Store) -> None:
        version = await self._version(store)
        asked = new_session(NASTY, model_version=version, answer=KNOWN, idempotency_key="k")
        started = await store.start(asked)
        assert (started.answered, started.model) == (True, None)
        session = await other.session(started.session_id)
        assert (session.state, session.reply, session.source) == (SessionState.ENDED, KNOWN, "cache")
        prompt, reply = await messages(store, started.chat_id)
        assert prompt.text == NASTY
        assert (reply.status, reply.text, reply.source) == (Status.COMPLETE, KNOWN.text, "cache")
        assert (reply.usage, reply.finish_reason) == (Usage(3, 4), "stop")
        assert reply.completed_at is not None
        # Its chat is free, and a repeat finds it.
        assert (await store.history("ada", started.chat_id, None, 9)).active_session_id is None
        again = await other.start(
            new_session(NASTY, idempotency_key="k", model_version=version, answer=KNOWN)
        )
        assert (again.answered, replace(again, answered=True)) == (False, started)
        assert await store.finish(started.session_id, Reply(9, "Late.", STOP), "provider") == Ended(KNOWN)
        assert (await store.start(new_session("And?", chat_id=started.chat_id))).chat_id == started.chat_id

    async def _version(self, store: Store, model: str = "small") -> str:
        """Learn the version of a model, as a process does."""
        first = await store.start(new_session(model=model))
        assert first.model is not None
        assert first.model.model == (await store.session(first.session_id)).model
        return first.model.version

    async def test_a_repeated_order_is_answered_once(self, store: Store) -> None:
        asked = new_session(model_version=await self._version(store), answer=KNOWN)
        started = await store.start(asked)
        # The connection was lost after it took effect.
        assert await store.start(asked) == started
        # It may have done so without the reply: then somebody may be reading by now.
        late = replace(new_session(), model_version=asked.model_version)
        begun = await store.start(late)
        assert await store.start(replace(late, answer=KNOWN)) == begun
        assert (await store.session(begun.session_id)).state is SessionState.OPEN
        assert len(await messages(store, started.chat_id)) == 2

    async def test_a_known_reply_of_another_version_is_ignored(self, store: Store, stage: Stage) -> None:
        version = await self._version(store)
        assert await self._version(stage.store("elsewhere")) == version
        for asked in (
            new_session(answer=KNOWN),
            new_session(answer=KNOWN, model_version="another"),
        ):
            started = await store.start(asked)
            assert not started.answered
            assert started.model is not None
            assert (await store.session(started.session_id)).state is SessionState.OPEN
        # A catalogue that was written anew is another one, and the new one is told.
        await stage.change_model("small")
        started = await store.start(new_session(answer=KNOWN, model_version=version))
        assert not started.answered
        assert started.model is not None
        assert started.model.version != version
        assert (await store.start(new_session(answer=KNOWN, model_version=started.model.version))).answered

    async def test_only_a_new_chat_s_question_has_a_known_reply(self, store: Store) -> None:
        version = await self._version(store)
        chat = (await turn(store, "Why?")).chat_id
        for fields in ({"chat_id": chat}, {"regenerate": True}):
            started = await store.start(new_session(answer=KNOWN, model_version=version, **fields))
            assert (started.answered, started.model) == (False, None)
            assert (await store.session(started.session_id)).state is SessionState.OPEN

    async def test_a_known_reply_counts_in_the_context(self, store: Store, stage: Stage) -> None:
        version = await self._version(store)
        started = await store.start(new_session("Why?", answer=KNOWN, model_version=version))
        following = await store.start(new_session("And?", chat_id=started.chat_id))
        turns = (await store.session(following.session_id)).turns
        assert [each.text for each in turns] == ["Why?", KNOWN.text, "And?"]

    async def test_who_may_not_ask_gets_no_known_reply(self, store: Store, stage: Stage) -> None:
        version = await self._version(store)
        large = (await store.start(new_session(user="bob", model="large"))).model
        assert large is not None
        asked = new_session(model="large", answer=KNOWN, model_version=large.version)
        assert await refusal(store.start(asked)) is ModelNotInPlan
        await stage.disable("ada")
        assert await refusal(store.start(new_session(answer=KNOWN, model_version=version))) is UserDisabled

    # -- one at a time ---------------------------------------------------------------------------

    async def test_a_chat_answers_one_message_at_a_time(self, store: Store, other: Store) -> None:
        chat = (await turn(store, "Why?")).chat_id
        outcomes = await asyncio.gather(
            *(place.start(new_session(chat_id=chat)) for place in (store, other, store, other)),
            return_exceptions=True,
        )
        [started] = [outcome for outcome in outcomes if isinstance(outcome, Started)]
        busy = [outcome for outcome in outcomes if isinstance(outcome, ChatBusy)]
        assert [error.session_id for error in busy] == [started.session_id] * 3
        assert len(await messages(store, chat)) == 4

    async def test_a_chat_stays_busy_while_its_writer_may_come_back(self, stage: Stage, store: Store) -> None:
        started = await store.start(new_session())
        await store.attach(started.session_id, "key", 1, 0, writer=True)
        await stage.pass_time(1000)
        assert await refusal(store.start(new_session(chat_id=started.chat_id))) is ChatBusy

    async def test_a_session_that_nobody_read_in_time_makes_room(self, stage: Stage, store: Store) -> None:
        started = await stage.store(session_seconds=0).start(new_session())
        again = await store.start(new_session("And now?", chat_id=started.chat_id))
        kept = await messages(store, started.chat_id)
        assert [message.status for message in kept] == ["complete", "failed", "complete", "pending"]
        assert kept[1].error_code == "session_expired"
        assert kept[1].completed_at is not None
        last = Turn(Role.USER, "And now?", again.message_id, 2)
        assert (await store.session(again.session_id)).turns[-1] == last

    async def test_regenerate_answers_the_last_question_anew(self, store: Store) -> None:
        chat = (await turn(store, "One?", "1")).chat_id
        first = await turn(store, "Two?", "2", chat)
        again = await store.start(new_session(None, chat_id=chat, regenerate=True))
        assert again.message_id == first.message_id
        session = await store.session(again.session_id)
        assert session.regenerate
        assert [entry.text for entry in session.turns] == ["One?", "1", "Two?"]
        await store.finish(again.session_id, Reply(2, "two", STOP), "provider")
        kept = await messages(store, chat)
        assert [message.text for message in kept] == ["One?", "1", "Two?", "2", "two"]
        assert [message.superseded_by for message in kept] == [None, None, None, again.reply_id, None]
        assert [message.position for message in kept] == [1, 2, 3, 4, 5]
        third = await turn(store, "Two?", "II", chat, regenerate=True)
        assert third.message_id == first.message_id
        following = await store.session((await store.start(new_session("Three?", chat_id=chat))).session_id)
        assert [entry.text for entry in following.turns] == ["One?", "1", "Two?", "II", "Three?"]

    @pytest.mark.parametrize(
        ("text", "end"),
        [
            ("", FAILED),
            ("Half", FAILED),
            ("", Completed(FinishReason.STOPPED)),
            (" \n", Completed(FinishReason.STOPPED)),
            ("I won't.", Completed(FinishReason.CONTENT_FILTER)),
        ],
        ids=["failed", "failed half way", "stopped before its text", "stopped, blank", "filtered"],
    )
    async def test_a_good_reply_stays_where_the_new_one_does_not_answer(
        self, store: Store, text: str, end: End
    ) -> None:
        good = await turn(store, "Why?", "Because.")
        for number in range(2):
            again = await store.start(new_session(None, chat_id=good.chat_id, regenerate=True))
            # Also while the new one is written, and for its own question it is no context.
            assert (await messages(store, good.chat_id))[1].superseded_by is None
            assert [entry.text for entry in (await store.session(again.session_id)).turns] == ["Why?"]
            await store.finish(again.session_id, Reply(2, text, end), "provider")
            kept = await messages(store, good.chat_id)
            # An earlier failure goes with the next try.
            assert [message.superseded_by is None for message in kept] == [True, True] + [False] * number + [
                True
            ]
        following = await store.start(new_session("And?", chat_id=good.chat_id))
        turns = normalise((await store.session(following.session_id)).turns)
        assert [entry.text for entry in turns] == ["Why?", "Because.", "And?"]

    async def test_a_reply_that_shows_nothing_goes_with_the_next_try_and_one_that_shows_something_stays(
        self, store: Store
    ) -> None:
        # Postgres's text holds no NUL.
        blanks = INVISIBLE.replace("\0", "")
        stopped = Completed(FinishReason.STOPPED)
        tried = await store.start(new_session())
        for text in (blanks, "\u200b", f"{blanks}.{blanks}"):
            await store.finish(tried.session_id, Reply(2, text, stopped), "provider")
            again = await store.start(new_session(None, chat_id=tried.chat_id, regenerate=True))
            kept = [each for each in await messages(store, tried.chat_id) if each.superseded_by is None]
            before = [] if is_blank(text) else [tried.reply_id]
            assert [message.id for message in kept] == [tried.message_id, *before, again.reply_id]
            tried = again

    @pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOPPED])
    async def test_a_new_reply_that_answers_takes_the_place_of_all_others(
        self, store: Store, reason: FinishReason
    ) -> None:
        good = await turn(store, "Why?", "Because.")
        for text, end in (("", FAILED), ("Better.", Completed(reason))):
            again = await store.start(new_session(None, chat_id=good.chat_id, regenerate=True))
            await store.finish(again.session_id, Reply(2, text, end), "provider")
        kept = await messages(store, good.chat_id)
        assert [message.text for message in kept if message.superseded_by is None] == ["Why?", "Better."]
        assert kept[1].superseded_by == again.reply_id

    async def test_a_new_reply_that_nobody_came_for_leaves_the_good_one(
        self, stage: Stage, store: Store
    ) -> None:
        good = await turn(store, "Why?", "Because.")
        await stage.store(session_seconds=0).start(new_session(None, chat_id=good.chat_id, regenerate=True))
        assert await store.expire_sessions(9) == 1
        assert [message.superseded_by for message in await messages(store, good.chat_id)] == [None] * 3

    async def test_a_session_tells_how_much_of_the_chat_lies_before_its_turns(self, store: Store) -> None:
        chat = (await turn(store, "0?", "0" * 900)).chat_id
        session = await store.session((await store.start(new_session("1?", chat_id=chat))).session_id)
        assert (session.earlier, len(session.turns)) == (0, 3)
        await store.finish(session.id, Reply(1, "1" * 900, STOP), "provider")
        # What a newer reply takes the place of is not counted.
        await turn(store, "1?", "I" * 900, chat, regenerate=True)
        await turn(store, "2?", "2" * 900, chat)
        session = await store.session((await store.start(new_session("3?", chat_id=chat))).session_id)
        # The model takes a thousand characters. A store may read no more than twice as many.
        assert session.earlier + len(session.turns) == 7
        kept = [message for message in await messages(store, chat) if message.superseded_by is None]
        shown = [message.id for message in kept]
        assert [entry.message_id for entry in session.turns] == shown[session.earlier : -1]
        assert [entry.above for entry in session.turns] == list(range(session.earlier, 7))

    async def test_regenerate_with_another_model(self, store: Store) -> None:
        chat = (await turn(store, "Why?", user="bob")).chat_id
        again = await store.start(new_session(None, "large", "bob", chat_id=chat, regenerate=True))
        assert (await store.session(again.session_id)).model.id == "large"
        assert (await store.chats("bob", None, 9)).chats[0].model_id == "large"

    # -- session ---------------------------------------------------------------------------------

    async def test_a_session_has_all_that_an_answer_needs(self, store: Store) -> None:
        started = await store.start(new_session(model="large", user="bob"))
        session = await store.session(started.session_id)
        assert session.model == Model(
            "large", "maker", "large-1", "Large", 100, 1000, "Be kind.", {"temperature": 0.5}
        )
        assert session.turns == (Turn(Role.USER, "Why?", started.message_id),)
        assert session.state is SessionState.OPEN
        assert (session.user_id, session.chat_id) == ("bob", started.chat_id)
        assert (session.message_id, session.reply_id) == (started.message_id, started.reply_id)
        assert (session.epoch, session.leased, session.generation_key) == (0, False, None)
        assert session.reply is None
        assert not session.regenerate

    async def test_turns_come_in_order_and_end_with_the_question(self, store: Store) -> None:
        chat = (await turn(store, "One?", "1")).chat_id
        for prompt, reply in (("Two?", "2"), ("Three?", ""), ("Four?", "4")):
            await turn(store, prompt, reply, chat)
        started = await store.start(new_session("Five?", chat_id=chat))
        turns = (await store.session(started.session_id)).turns
        assert [entry.text for entry in turns] == [
            "One?", "1", "Two?", "2", "Three?", "", "Four?", "4", "Five?",
        ]  # fmt: skip
        assert {entry.role for entry in turns[::2]} == {Role.USER}

    async def test_a_long_chat_brings_what_its_context_holds_and_not_much_more(self, store: Store) -> None:
        chat = (await turn(store, "0?", "0" * 300)).chat_id
        for number in range(1, 30):
            await turn(store, f"{number}?", f"{number}" * 150, chat)
        started = await store.start(new_session("What was that?", chat_id=chat))
        session = await store.session(started.session_id)
        turns = session.turns
        # The model takes a thousand characters: three of these replies, and their questions.
        assert [entry.text[:2] for entry in trim(normalise(turns), session.model)] == [
            "27", "27", "28", "28", "29", "29", "Wh",
        ]  # fmt: skip
        assert (await store.session(started.session_id)).turns == turns

    async def test_a_reply_that_was_filtered_is_no_turn(self, store: Store) -> None:
        chat = (await turn(store, "One?", "1")).chat_id
        started = await store.start(new_session("Two?", chat_id=chat))
        filtered = Reply(1, "I won't.", Completed(FinishReason.CONTENT_FILTER, "refusal"))
        await store.attach(started.session_id, "key", 1, 60, writer=True)
        await store.finish(started.session_id, filtered, "provider")
        started = await store.start(new_session("Three?", chat_id=chat))
        turns = normalise((await store.session(started.session_id)).turns)
        assert [entry.text for entry in turns] == ["One?", "1", "Three?"]

    async def test_a_session_that_is_not_there_is_an_error(self, stage: Stage, store: Store) -> None:
        assert await refusal(store.session("unheard-of")) is NotFound
        expired = await stage.store(session_seconds=0).start(new_session())
        assert await refusal(store.session(expired.session_id)) is SessionExpired
        started = await store.start(new_session())
        await stage.disable("ada")
        assert await refusal(store.session(started.session_id)) is UserDisabled

    async def test_a_session_stays_while_it_is_answered(self, stage: Stage, store: Store) -> None:
        started = await store.start(new_session())
        await store.attach(started.session_id, "key", 1, 10_000, writer=True)
        await stage.pass_time(1000)
        assert (await store.session(started.session_id)).state is SessionState.STREAMING
        await stage.pass_time(10_000)
        assert await refusal(store.session(started.session_id)) is SessionExpired

    async def test_an_ended_session_shows_its_reply_for_a_while(self, stage: Stage, store: Store) -> None:
        started = await store.start(new_session())
        await stage.pass_time(590)
        reply = Reply(7, NASTY, STOP)
        await store.finish(started.session_id, reply, "cache")
        await stage.pass_time(290)
        session = await store.session(started.session_id)
        assert (session.reply, session.state, session.turns) == (reply, SessionState.ENDED, ())
        await stage.pass_time(20)
        assert await refusal(store.session(started.session_id)) is SessionExpired

    # -- attach, claim, pulse --------------------------------------------------------------------

    async def test_a_writer_becomes_the_owner(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        assert await store.attach(session_id, "key", 5, 60, writer=True) == Attached()
        here, there = await store.session(session_id), await other.session(session_id)
        assert (here.epoch, here.generation_key, here.state) == (5, "key", SessionState.STREAMING)
        assert (here.leased, there.leased) == (False, True)
        assert (await store.reply(session_id), await other.reply(session_id)) == ((False, None), (True, None))
        # Also where somebody else vouches: the log elected it.
        assert await other.attach(session_id, "key", 6, 60, writer=True) == Attached()
        assert ((await store.session(session_id)).leased, (await other.session(session_id)).leased) == (
            True, False,
        )  # fmt: skip

    async def test_a_reader_vouches_only_where_nobody_does(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 60, writer=True)
        assert await other.attach(session_id, "key", 5, 60, writer=False) == Attached()
        assert (await other.session(session_id)).leased
        await store.attach(session_id, "key", 5, 0, writer=True)
        assert not (await other.session(session_id)).leased
        assert await other.attach(session_id, "key", 5, 60, writer=False) == Attached()
        assert (await store.session(session_id)).leased

    async def test_a_reader_of_its_own_session_renews_the_lease(self, stage: Stage, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 10, writer=True)
        await store.attach(session_id, "key", 5, 100, writer=False)
        await stage.pass_time(50)
        assert (await stage.store("there").session(session_id)).leased

    async def test_an_earlier_epoch_cannot_attach(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 60, writer=True)
        for writer in (True, False):
            assert await other.attach(session_id, "old", 4, 60, writer=writer) == Overtaken(5)
        session = await store.session(session_id)
        assert (session.epoch, session.generation_key, session.leased) == (5, "key", False)

    async def test_attaching_again_changes_nothing(self, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        for _ in range(2):
            assert await store.attach(session_id, "key", 5, 60, writer=True) == Attached()
        assert (await store.session(session_id)).epoch == 5

    async def test_a_claim_is_a_new_epoch(self, stage: Stage, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        first = await store.claim(session_id, "key", 60)
        assert isinstance(first, int)
        assert first > 1_600_000_000_000
        assert await other.claim(session_id, "key", 60) == Overtaken(first)
        assert (await other.session(session_id)).leased
        # The owner may claim again; it began anew.
        again = await store.claim(session_id, "key", 0)
        assert isinstance(again, int)
        assert again > first
        taken_over = await other.claim(session_id, "key", 60)
        assert isinstance(taken_over, int)
        assert taken_over > again
        assert await store.claim(session_id, "key", 60) == Overtaken(taken_over)
        session = await store.session(session_id)
        assert (session.epoch, session.generation_key) == (taken_over, "key")

    async def test_a_claim_is_above_what_the_session_followed(self, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        future = 9_000_000_000_000
        await store.attach(session_id, "key", future, 0, writer=False)
        assert await store.claim(session_id, "key", 60) == future + 1

    async def test_one_of_many_wins_the_claim(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        claims = await asyncio.gather(*(place.claim(session_id, "key", 60) for place in (store, other)))
        [epoch] = [claim for claim in claims if isinstance(claim, int)]
        assert Overtaken(epoch) in claims

    @pytest.mark.parametrize("act", ["attach", "claim"])
    async def test_nobody_takes_up_what_stops_or_ended(self, stage: Stage, store: Store, act: str) -> None:
        async def take_up(session_id: str) -> object:
            if act == "claim":
                return await store.claim(session_id, "key", 60)
            return await store.attach(session_id, "key", 9, 60, writer=True)

        with pytest.raises(NotFound):
            await take_up("unheard-of")
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 0, writer=True)
        await store.request_stop(session_id, "ada")
        assert await take_up(session_id) == Stopping(disabled=False)
        await stage.disable("ada")
        assert await take_up(session_id) == Stopping(disabled=True)
        reply = Reply(5, "Half", Completed(FinishReason.STOPPED))
        await store.finish(session_id, reply, "provider")
        assert await take_up(session_id) == Ended(reply)

    async def test_a_pulse_renews_what_is_ours(self, stage: Stage, store: Store, other: Store) -> None:
        ours, theirs, open_ = [
            (await store.start(new_session(str(number)))).session_id for number in range(3)
        ]
        await store.attach(ours, "key", 5, 10, writer=True)
        await other.attach(theirs, "key", 5, 10, writer=True)
        pulses = await store.renew_leases({ours: 5, theirs: 5, open_: 0}, 100)
        calm = LeaseStatus("", overtaken=False, ended=False, stopping=False, disabled=False)
        assert sorted(pulses, key=lambda pulse: pulse.session_id) == [
            replace(calm, session_id=session_id) for session_id in (ours, theirs, open_)
        ]
        await stage.pass_time(50)
        assert (await other.session(ours)).leased
        assert not (await store.session(theirs)).leased
        # What nobody vouches for any more becomes ours; an open session stays open.
        await store.renew_leases({theirs: 5, open_: 0}, 100)
        assert (await other.session(theirs)).leased
        assert (await store.session(open_)).state is SessionState.OPEN

    async def test_a_pulse_tells_what_changed(self, stage: Stage, store: Store, other: Store) -> None:
        ids = [(await store.start(new_session(str(number)))).session_id for number in range(3)]
        overtaken, stopping, ended = ids
        for session_id in ids:
            await store.attach(session_id, "key", 5, 60, writer=True)
        await other.attach(overtaken, "key", 6, 60, writer=True)
        await store.request_stop(stopping, None)
        await store.finish(ended, Reply(5, "", STOP), "provider")
        epochs = dict.fromkeys([*ids, "unheard-of"], 5)
        found = {pulse.session_id: pulse for pulse in await store.renew_leases(epochs, 60)}
        assert {name for name, pulse in found.items() if pulse.overtaken} == {overtaken, "unheard-of"}
        assert {name for name, pulse in found.items() if pulse.stopping} == {stopping}
        assert {name for name, pulse in found.items() if pulse.ended} == {ended, "unheard-of"}
        assert not any(pulse.disabled for pulse in found.values())
        await stage.disable("ada")
        assert all(pulse.disabled for pulse in await store.renew_leases(dict.fromkeys(ids, 5), 60))
        assert await store.renew_leases({}, 60) == []

    # -- finish, reply ---------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("end", "status"),
        [
            (STOP, Status.COMPLETE),
            (Completed(FinishReason.STOPPED), Status.STOPPED),
            (Completed(FinishReason.LENGTH, "max_tokens", Usage(1, 100)), Status.TRUNCATED),
            (Completed(FinishReason.TRUNCATED), Status.TRUNCATED),
            (Completed(FinishReason.CONTENT_FILTER, "refusal"), Status.FILTERED),
            (FAILED, Status.FAILED),
            (Failed("internal", "Something went wrong here.", retryable=False), Status.FAILED),
        ],
    )
    async def test_a_reply_is_kept_with_its_end(
        self, store: Store, end: Completed | Failed, status: Status
    ) -> None:
        started = await store.start(new_session())
        reply = Reply(1_795_391_262_123, NASTY, end)
        assert await store.finish(started.session_id, reply, "joined") == Saved()
        assert (await store.session(started.session_id)).reply == reply
        assert await store.reply(started.session_id) == (False, reply)
        page = await store.history("ada", started.chat_id, None, 9)
        message = page.messages[1]
        assert (message.text, message.status, message.source) == (NASTY, status, "joined")
        assert message.completed_at is not None
        assert page.active_session_id is None
        if isinstance(end, Completed):
            assert (message.finish_reason, message.usage) == (end.finish_reason.value, end.usage)
            assert message.error_code is None
        else:
            assert (message.finish_reason, message.usage, message.error_code) == (None, None, end.code)

    async def test_the_first_end_of_a_session_stays(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 60, writer=True)
        first = Reply(5, "All of it.", STOP)
        assert await store.finish(session_id, first, "provider") == Saved()
        for reply in (first, Reply(5, "Less", Completed(FinishReason.STOPPED)), Reply(9, "Later", STOP)):
            assert await other.finish(session_id, reply, "joined") == Ended(first)
        assert (await store.session(session_id)).reply == first

    async def test_ends_at_once_make_one_end(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        replies = [Reply(5, f"End {number}", STOP) for number in range(6)]
        outcomes = await asyncio.gather(
            *(
                place.finish(session_id, reply, "joined")
                for place, reply in zip([store, other] * 3, replies, strict=True)
            )
        )
        stored = (await store.reply(session_id))[1]
        assert stored is not None
        assert [outcome for outcome in outcomes if outcome != Ended(stored)] == [Saved()]

    async def test_an_earlier_epoch_cannot_finish(self, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 60, writer=True)
        stale = Reply(4, "Stale", STOP)
        assert await store.finish(session_id, stale, "provider") == Overtaken(5)
        await store.request_stop(session_id, None)
        assert await store.finish(session_id, stale, "provider") == Overtaken(5)
        assert await store.reply(session_id) == (False, None)
        assert await store.finish(session_id, Reply(6, "Fresh", STOP), "provider") == Saved()
        assert (await store.session(session_id)).epoch == 6

    async def test_what_is_not_there_can_neither_end_nor_be_read(self, store: Store) -> None:
        assert await refusal(store.finish("unheard-of", Reply(1, "", STOP), "provider")) is NotFound
        assert await refusal(store.reply("unheard-of")) is NotFound

    # -- stop ------------------------------------------------------------------------------------

    async def test_a_stop_before_anybody_answers_is_the_end(self, store: Store) -> None:
        started = await store.start(new_session())
        for _ in range(2):
            stop = await store.request_stop(started.session_id, "ada")
            assert (stop.ended, stop.leased, stop.generation_key) == (True, False, None)
        stopped = Reply(0, "", Completed(FinishReason.STOPPED))
        assert await store.reply(started.session_id) == (False, stopped)
        assert (await messages(store, started.chat_id))[1].status is Status.STOPPED
        await store.start(new_session("Next?", chat_id=started.chat_id))

    async def test_a_stop_of_what_is_answered_is_noted(self, store: Store, other: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 60, writer=True)
        for place in (store, other):
            assert await place.request_stop(session_id, None) == Stop(False, True, "key", 5)
        assert (await store.session(session_id)).state is SessionState.STREAMING
        await store.attach(session_id, "key", 5, 60, writer=True)
        assert await store.finish(session_id, Reply(5, "Half", STOP), "provider") == Saved()
        assert (await store.request_stop(session_id, "ada")).ended

    async def test_a_stop_tells_where_nobody_vouches(self, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 0, writer=True)
        assert await store.request_stop(session_id, "ada") == Stop(False, False, "key", 5)

    async def test_only_its_user_stops_a_session(self, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        assert await refusal(store.request_stop(session_id, "bob")) is NotFound
        assert await refusal(store.request_stop("unheard-of", "ada")) is NotFound
        assert await refusal(store.request_stop("unheard-of", None)) is NotFound
        assert (await store.session(session_id)).state is SessionState.OPEN

    # -- history, chats, models ------------------------------------------------------------------

    async def test_history_comes_in_pages(self, store: Store) -> None:
        chat = (await turn(store, "1?")).chat_id
        for number in range(2, 5):
            await turn(store, f"{number}?", chat_id=chat)
        whole = await store.history("ada", chat, None, 8)
        assert (len(whole.messages), whole.next_before) == (8, None)
        found: list[Message] = []
        before: int | None = None
        sizes = []
        while True:
            page = await store.history("ada", chat, before, 3)
            sizes.append(len(page.messages))
            found = [*page.messages, *found]
            if page.next_before is None:
                break
            before = int(page.next_before)
        assert sizes == [3, 3, 2]
        assert tuple(found) == whole.messages
        nothing = await store.history("ada", chat, 1, 3)
        assert (nothing.messages, nothing.next_before, nothing.title) == ((), None, "About 1?")

    async def test_history_is_its_owner_s(self, stage: Stage, store: Store) -> None:
        chat = (await turn(store, "Why?")).chat_id
        assert await refusal(store.history("bob", chat, None, 9)) is NotFound
        assert await refusal(store.history("nobody", chat, None, 9)) is NotFound
        assert await refusal(store.history("ada", "unheard-of", None, 9)) is NotFound
        await stage.disable("ada")
        assert await refusal(store.history("ada", chat, None, 9)) is UserDisabled
        await stage.disable("bob")
        assert await refusal(store.history("bob", chat, None, 9)) is NotFound

    async def test_the_active_session_is_one_that_can_be_read(self, stage: Stage, store: Store) -> None:
        async def active() -> str | None:
            page = await store.history("ada", started.chat_id, None, 9)
            [chat] = (await store.chats("ada", None, 9)).chats
            assert chat.active_session_id == page.active_session_id
            return page.active_session_id

        started = await store.start(new_session())
        assert await active() == started.session_id
        await stage.pass_time(1000)
        assert await active() is None
        started = await store.start(new_session(chat_id=started.chat_id))
        await store.attach(started.session_id, "key", 5, 10, writer=True)
        await stage.pass_time(1000)
        assert await active() == started.session_id
        await store.finish(started.session_id, Reply(5, "", STOP), "provider")
        assert await active() is None

    async def test_chats_come_in_pages_the_latest_first(self, stage: Stage, store: Store) -> None:
        assert await store.chats("ada", None, 9) == await store.chats("bob", None, 9)
        made = []
        for number in range(5):
            made.append((await turn(store, f"{number}?")).chat_id)
            await stage.pass_time(1)
        await turn(store, "Mine.", user="bob")
        await turn(store, "Again?", chat_id=made[1])
        expected = [made[1], made[4], made[3], made[2], made[0]]
        found: list[str] = []
        before: str | None = None
        sizes = []
        while True:
            page = await store.chats("ada", before, 2)
            sizes.append(len(page.chats))
            found += [chat.chat_id for chat in page.chats]
            before = page.next_before
            if before is None:
                break
        assert (found, sizes) == (expected, [2, 2, 1])
        [first, *_] = (await store.chats("ada", None, 9)).chats
        assert (first.title, first.model_id, first.active_session_id) == ("About 1?", "small", None)
        assert first.updated_at > first.created_at
        assert (await store.chats("ada", None, 5)).next_before is None

    async def test_chats_and_models_are_for_users(self, stage: Stage, store: Store) -> None:
        asks: list[Callable[[str], Awaitable[object]]] = [
            lambda user: store.chats(user, None, 9),
            store.models,
        ]
        for ask in asks:
            assert await refusal(ask("nobody")) is NotFound
        await stage.disable("ada")
        for ask in asks:
            assert await refusal(ask("ada")) is UserDisabled

    async def test_models_as_the_user_s_plan_has_them(self, store: Store) -> None:
        offered = await store.models("ada")
        assert [(model.id, model.in_plan, model.plans) for model in offered] == [
            ("small", True, ("Free", "Pro")),
            ("large", False, ("Pro",)),
        ]
        assert (offered[1].title, offered[1].provider) == ("Large", "maker")
        assert [model.in_plan for model in await store.models("bob")] == [True, True]

    # -- the purge's part ------------------------------------------------------------------------

    async def test_orphans_are_what_nobody_vouches_for(self, stage: Stage, store: Store) -> None:
        open_, orphan, stopped, held, ended = [
            (await store.start(new_session(str(number)))).session_id for number in range(5)
        ]
        for session_id in (orphan, stopped, ended):
            await store.attach(session_id, "key", 5, 10, writer=True)
        await store.attach(held, "key", 5, 10_000, writer=True)
        await store.finish(ended, Reply(5, "", STOP), "provider")
        await store.request_stop(stopped, None)
        assert await store.orphans(60, 10) == []
        await stage.pass_time(60)
        assert await store.orphans(60, 10) == []
        await stage.pass_time(20)
        found = await store.orphans(60, 10)
        assert {(entry.session_id, entry.stopping) for entry in found} == {(orphan, False), (stopped, True)}
        assert found[0] == Orphan(found[0].session_id, "key", 5, found[0].stopping)
        # Whoever asks next does not get the same at once; what was not settled comes back.
        assert await stage.store("there").orphans(60, 10) == []
        await stage.pass_time(61)
        assert len(await store.orphans(60, 1)) == 1
        assert len(await store.orphans(60, 9)) == 1
        assert open_ not in {entry.session_id for entry in found}

    async def test_an_orphan_can_still_be_taken_up(self, stage: Stage, store: Store) -> None:
        session_id = (await store.start(new_session())).session_id
        await store.attach(session_id, "key", 5, 10, writer=True)
        await stage.pass_time(100)
        await stage.store("purge").orphans(60, 10)
        assert not (await store.session(session_id)).leased
        assert isinstance(await store.claim(session_id, "key", 60), int)

    async def test_sessions_that_nobody_read_expire(self, stage: Stage, store: Store) -> None:
        ids = [(await store.start(new_session(str(number)))).session_id for number in range(5)]
        await store.attach(ids[0], "key", 5, 10, writer=True)
        await store.finish(ids[1], Reply(5, "", STOP), "provider")
        assert await store.expire_sessions(10) == 0
        await stage.pass_time(1000)
        assert await store.expire_sessions(2) == 2
        assert await store.expire_sessions(2) == 1
        assert await store.expire_sessions(2) == 0
        _, reply = await store.reply(ids[4])
        assert reply is not None
        assert isinstance(reply.end, Failed)
        assert (reply.end.code, reply.end.retryable, reply.status) == ("session_expired", True, "failed")
        assert await store.reply(ids[0]) == (False, None)

    async def test_ended_sessions_go_and_their_messages_stay(self, stage: Stage, store: Store) -> None:
        done = [await turn(store, str(number), idempotency_key=str(number)) for number in range(3)]
        live = await store.start(new_session())
        await store.attach(live.session_id, "key", 5, 10, writer=True)
        await stage.pass_time(250)
        assert await store.purge_sessions(10) == 0
        await stage.pass_time(1000)
        assert await store.purge_sessions(2) == 2
        assert await store.purge_sessions(2) == 1
        assert await store.purge_sessions(2) == 0
        assert await refusal(store.session(done[0].session_id)) is NotFound
        assert len(await messages(store, done[0].chat_id)) == 2
        assert await store.reply(live.session_id) == (False, None)
        # The key is forgotten with its session.
        assert await store.start(new_session("0", idempotency_key="0")) != done[0]

    async def test_old_chats_go_with_all_they_have(self, stage: Stage, store: Store) -> None:
        day = 24 * 60 * 60
        busy = await store.start(new_session("Busy?"))
        old = [(await turn(store, str(number))).chat_id for number in range(3)]
        await stage.pass_time(20 * day)
        kept = (await turn(store, "Kept?")).chat_id
        await stage.pass_time(11 * day)
        assert await store.purge_chats(40, 10) == 0
        assert await store.purge_chats(30, 2) == 2
        assert await store.purge_chats(30, 2) == 1
        assert await store.purge_chats(30, 2) == 0
        left = {chat.chat_id for chat in (await store.chats("ada", None, 9)).chats}
        assert left == {kept, busy.chat_id}
        assert await refusal(store.history("ada", old[0], None, 9)) is NotFound

    async def test_purges_at_once_do_not_meet(self, stage: Stage, store: Store, other: Store) -> None:
        for number in range(6):
            await store.start(new_session(str(number)))
        await stage.pass_time(1000)
        assert sum(await asyncio.gather(store.expire_sessions(10), other.expire_sessions(10))) == 6
        assert sum(await asyncio.gather(store.purge_sessions(10), other.purge_sessions(10))) == 6

    async def test_a_check_of_the_store_passes(self, store: Store) -> None:
        await store.check()
