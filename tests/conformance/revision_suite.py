"""What every `ports.Store` tells of a chat that goes on; each test file runs it on one."""

import asyncio

import pytest

from parley.domain.conversation import NewSession, Reply
from parley.domain.errors import ChatBusy, ChatMoved, NotFound
from parley.domain.events import Failed
from parley.domain.ports import Store
from tests.conformance.backends import Stage
from tests.conformance.requests import STOP, new_session, turn
from tests.conformance.store_suite import StoreFixtures, messages, refusal

FAILED = Failed("provider_overloaded", "Busy.", retryable=True)


class Watched:
    """A chat whose every write is looked at: what changed, by the revisions before and after."""

    def __init__(self, store: Store, chat_id: str) -> None:
        self._store = store
        self._chat_id = chat_id
        self._known = 0

    async def changed(self) -> list[str]:
        """Return the messages that changed since the last look, after which nothing is new."""
        page = await self._store.history("ada", self._chat_id, None, 99)
        changes = await self._store.changes("ada", self._chat_id, self._known, 99)
        assert changes is not None
        assert (changes.revision, changes.next_before) == (page.revision, None)
        assert changes.active_session_id == page.active_session_id
        assert set(changes.messages) <= set(page.messages)
        # The revision grows exactly if something changed.
        assert (page.revision > self._known) == bool(changes.messages)
        self._known = page.revision
        return [message.id for message in changes.messages]


class RevisionSuite(StoreFixtures):
    """Revisions, what is new, and starts that do not know it."""

    async def test_a_revision_tells_what_a_question_and_its_reply_changed(self, store: Store) -> None:
        first = await store.start(new_session())
        chat = Watched(store, first.chat_id)
        assert await chat.changed() == [first.message_id, first.reply_id]
        assert await refusal(store.start(new_session(chat_id=first.chat_id))) is ChatBusy
        await store.attach(first.session_id, "key", 5, 10, writer=True)
        assert await chat.changed() == []
        for _ in range(2):
            await store.finish(first.session_id, Reply(5, "Because.", STOP), "provider")
        assert await chat.changed() == [first.reply_id]
        assert await chat.changed() == []

    async def test_a_revision_tells_what_a_new_reply_takes_the_place_of(self, store: Store) -> None:
        first = await turn(store, "Why?")
        chat = Watched(store, first.chat_id)
        await chat.changed()
        again = await store.start(new_session(None, chat_id=first.chat_id, regenerate=True))
        assert await chat.changed() == [again.reply_id]
        await store.finish(again.session_id, Reply(6, "", FAILED), "provider")
        assert await chat.changed() == [again.reply_id]
        better = await store.start(new_session(None, chat_id=first.chat_id, regenerate=True))
        # The failure goes as the next try begins, the good reply once that answers better.
        assert await chat.changed() == [again.reply_id, better.reply_id]
        await store.finish(better.session_id, Reply(7, "Therefore.", STOP), "provider")
        assert await chat.changed() == [first.reply_id, better.reply_id]

    async def test_a_revision_tells_of_ends_that_no_reader_saw(self, stage: Stage, store: Store) -> None:
        first = await turn(store, "Why?")
        chat = Watched(store, first.chat_id)
        await chat.changed()
        stopped = await store.start(new_session("And?", chat_id=first.chat_id))
        await store.request_stop(stopped.session_id, "ada")
        assert await chat.changed() == [stopped.message_id, stopped.reply_id]
        hasty = stage.store(session_seconds=0)
        unread = await hasty.start(new_session("Well?", chat_id=first.chat_id))
        await chat.changed()
        assert await store.expire_sessions(9) == 1
        assert await chat.changed() == [unread.reply_id]
        late = await hasty.start(new_session("Hm?", chat_id=first.chat_id))
        await chat.changed()
        last = await store.start(new_session("Nobody there?", chat_id=first.chat_id))
        assert await chat.changed() == [late.reply_id, last.message_id, last.reply_id]

    async def test_a_chat_that_opens_with_a_known_reply_has_a_revision(self, store: Store) -> None:
        first = await store.start(new_session())
        assert first.model is not None
        known = new_session(model_version=first.model.version, answer=Reply(7, "Because.", STOP))
        started = await store.start(known)
        assert started.answered
        assert await Watched(store, started.chat_id).changed() == [started.message_id, started.reply_id]

    async def test_changes_are_told_whole_or_not_at_all(self, store: Store) -> None:
        first = await turn(store, "1?")
        await turn(store, "2?", chat_id=first.chat_id)
        page = await store.history("ada", first.chat_id, None, 9)
        assert await store.changes("ada", first.chat_id, 0, 3) is None
        whole = await store.changes("ada", first.chat_id, 0, 4)
        assert whole is not None
        assert whole.messages == page.messages
        # A database that was restored from a backup may have fewer revisions than a client has seen.
        assert await store.changes("ada", first.chat_id, page.revision + 1, 4) is None

    async def test_history_from_a_message_on_begins_with_its_question(self, store: Store) -> None:
        first = await turn(store, "1?")
        second = await turn(store, "2?", chat_id=first.chat_id)
        elsewhere = await turn(store, "Elsewhere?")

        async def ids(message_id: str, limit: int = 9) -> list[str]:
            page = await store.history_from("ada", first.chat_id, message_id, limit)
            return [message.id for message in page.messages]

        everything = [first.message_id, first.reply_id, second.message_id, second.reply_id]
        assert await ids(first.message_id) == await ids(first.reply_id) == everything
        assert await ids(first.reply_id, 2) == everything[2:]
        # With its question, since a reply beside it may have changed as well.
        assert await ids(second.message_id) == await ids(second.reply_id) == everything[2:]
        for unknown in ("unheard-of", elsewhere.reply_id):
            assert await ids(unknown) == everything

    async def test_what_is_new_is_its_owner_s(self, store: Store) -> None:
        first = await turn(store, "Why?")
        for user in ("bob", "nobody"):
            assert await refusal(store.changes(user, first.chat_id, 0, 9)) is NotFound
            assert await refusal(store.history_from(user, first.chat_id, first.reply_id, 9)) is NotFound

    @pytest.mark.parametrize("regenerate", [False, True], ids=["a question", "a regenerate"])
    async def test_a_start_that_does_not_know_the_chat_s_end_changes_nothing(
        self, store: Store, other: Store, regenerate: bool
    ) -> None:
        def order(known: str) -> NewSession:
            if regenerate:
                return new_session(None, chat_id=first.chat_id, regenerate=True, replaces=known)
            return new_session("And?", chat_id=first.chat_id, parent_id=known)

        first = await turn(store, "One?", "1")
        second = await turn(other, "Two?", "2", first.chat_id)
        elsewhere = await turn(store, "Elsewhere?")
        before = await store.history("ada", first.chat_id, None, 99)
        unknowing = (first.message_id, first.reply_id, second.message_id, elsewhere.reply_id, "unheard-of")
        for known in unknowing:
            with pytest.raises(ChatMoved) as moved:
                await store.start(order(known))
            assert moved.value.known == known
        assert await store.history("ada", first.chat_id, None, 99) == before
        started = await store.start(order(second.reply_id))
        # A chat that is being answered says so, whatever the start knows.
        assert await refusal(store.start(order("unheard-of"))) is ChatBusy
        await store.finish(started.session_id, Reply(9, "Better.", STOP), "provider")
        # What was replaced, or asked after, is no end any more.
        assert await refusal(store.start(order(second.reply_id))) is ChatMoved
        assert (await store.start(order(started.reply_id))).chat_id == first.chat_id

    async def test_a_question_may_follow_a_good_reply_beside_which_another_failed(self, store: Store) -> None:
        good = await turn(store, "Why?")
        again = await store.start(
            new_session(None, chat_id=good.chat_id, replaces=good.reply_id, regenerate=True)
        )
        await store.finish(again.session_id, Reply(6, "", FAILED), "provider")
        replace_good = new_session(None, chat_id=good.chat_id, replaces=good.reply_id, regenerate=True)
        assert await refusal(store.start(replace_good)) is ChatMoved
        started = await store.start(new_session("And?", chat_id=good.chat_id, parent_id=good.reply_id))
        turns = (await store.session(started.session_id)).turns
        assert [entry.text for entry in turns][-1] == "And?"

    async def test_of_starts_at_once_from_the_same_end_one_is_taken(self, store: Store, other: Store) -> None:
        first = await turn(store, "One?")
        starts = [
            who.start(new_session(f"{number}?", chat_id=first.chat_id, parent_id=first.reply_id))
            for number, who in enumerate((store, other) * 3)
        ]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ChatBusy"] * 5 + ["Started"]
        assert len(await messages(store, first.chat_id)) == 4
