"""How every `ports.Store` keeps to what a plan allows; each test file runs it on one.

The model `small` writes 100 tokens at most, so a prompt of 40 characters in a new chat sets aside 110.
"""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from parley.domain.conversation import NewSession, Reply, Started
from parley.domain.errors import LimitExceeded, ParleyError
from parley.domain.events import Completed, End, Failed, FinishReason, Spent, Usage
from parley.domain.limits import Allowance
from parley.domain.ports import Store
from parley.domain.results import Attached, Ended, Saved
from tests.conformance.backends import Stage
from tests.conformance.requests import new_session
from tests.conformance.store_suite import StoreFixtures, refusal

FORTY = "How many words do forty characters make?"
RESERVE = 110
DAY = 24 * 60 * 60


async def limited(store: Store, asked: NewSession) -> tuple[str, tuple[int | None, ...], float]:
    """Return which limit refuses an order, what is left of each, and when to come again."""
    with pytest.raises(LimitExceeded) as caught:
        await store.start(asked)
    error = caught.value
    assert error.retry_after is not None
    assert list(error.remaining) == ["requests", "streams", "tokens"]
    return error.limit, tuple(error.remaining.values()), error.retry_after


async def burst(stores: list[Store], orders: list[NewSession]) -> list[Started]:
    """Start all at once, in several processes; what is refused must be so by a limit."""
    outcomes = await asyncio.gather(
        *(stores[number % len(stores)].start(asked) for number, asked in enumerate(orders)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} <= {Started, LimitExceeded}
    return [outcome for outcome in outcomes if isinstance(outcome, Started)]


async def answered(store: Store, started: Started, end: End, text: str = "Because.", epoch: int = 1) -> None:
    """Have a session's model asked, and save its reply."""
    assert await store.attach(started.session_id, "key", epoch, 60, writer=True, asks=True) == Attached()
    assert await store.finish(started.session_id, Reply(epoch, text, end), "provider") == Saved()


async def follows(
    store: Store,
    user: str = "ada",
    *,
    asks: bool = False,
    epoch: int = 1,
    key: str = "key",
    lease: float = 60,
) -> str:
    """Start a session and attach it to a generation; return its id."""
    started = await store.start(new_session(FORTY, user=user))
    assert await store.attach(started.session_id, key, epoch, lease, writer=asks, asks=asks) == Attached()
    return started.session_id


def partial(input_tokens: int | None, output_tokens: int) -> Reply:
    """Return a reply that was stopped."""
    return Reply(1, "Half", Completed(FinishReason.STOPPED, spent=Spent(input_tokens, output_tokens)))


WHOLE = Reply(1, "All of it.", Completed(FinishReason.STOP, None, Usage(12, 100)))


def stopped(usage: Usage | None = None, reason: FinishReason = FinishReason.STOPPED) -> Completed:
    return Completed(reason, None, usage)


class LimitSuite(StoreFixtures):
    """Subclasses make the stage."""

    @pytest.fixture(autouse=True)
    async def _within_one_day(self) -> None:
        now = datetime.now(UTC)
        left = (datetime.combine(now.date(), datetime.max.time(), UTC) - now).total_seconds()
        if left < 10:
            await asyncio.sleep(left + 1)

    # -- requests a minute -----------------------------------------------------------------------

    async def test_requests_in_a_minute_are_limited(self, stage: Stage, store: Store, other: Store) -> None:
        await stage.limit("free", Allowance(requests_per_minute=3))
        first = await store.start(new_session())
        await stage.pass_time(20)
        await other.start(new_session())
        await stage.pass_time(20)
        await store.start(new_session())
        limit, left, seconds = await limited(other, new_session())
        assert (limit, left) == ("requests", (0, None, None))
        assert 15 < seconds <= 20
        # It is the window that slides, not a minute of the clock; and who was refused has not asked.
        await stage.pass_time(20.5)
        await store.start(new_session())
        assert 15 < (await limited(store, new_session()))[2] <= 20
        # What ended was a request as well.
        await answered(store, first, stopped())
        assert (await limited(store, new_session()))[0] == "requests"
        # Another user of the plan has requests of its own.
        await stage.add_user("cleo", "free")
        await store.start(new_session(user="cleo"))

    async def test_a_lowered_limit_frees_when_enough_have_left_the_window(
        self, stage: Stage, store: Store
    ) -> None:
        for _ in range(4):
            await store.start(new_session())
            await stage.pass_time(10)
        await stage.limit("free", Allowance(requests_per_minute=2))
        _, left, seconds = await limited(store, new_session())
        assert left == (0, None, None)
        # The last two left: the older of them was asked 20 seconds ago.
        assert 35 < seconds <= 40

    async def test_a_burst_in_two_processes_passes_no_limit(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        stores = [store, other]
        for allowance, expected in (
            (Allowance(requests_per_minute=5), 5),
            (Allowance(concurrent_streams=3), 3),
            (Allowance(tokens_per_day=4 * RESERVE + 100), 4),
            (Allowance(5, 3, 2 * RESERVE), 2),
        ):
            user = f"user of {expected} {allowance}"
            await stage.add_user(user, "free")
            await stage.limit("free", allowance)
            started = await burst(stores, [new_session(FORTY, user=user) for _ in range(16)])
            assert len(started) == expected
            chats = (await store.chats(user, None, 99)).chats
            assert {chat.chat_id for chat in chats} == {one.chat_id for one in started}

    async def test_a_new_user_s_burst_passes_no_limit(self, stage: Stage) -> None:
        await stage.limit("free", Allowance(concurrent_streams=3))
        stores = [stage.store(name, create_users=True) for name in ("here", "there")]
        assert len(await burst(stores, [new_session(user="new") for _ in range(16)])) == 3

    # -- streams at once -------------------------------------------------------------------------

    async def test_streams_at_once_are_limited(self, stage: Stage, store: Store, other: Store) -> None:
        await stage.limit("free", Allowance(concurrent_streams=2))
        waiting = await store.start(new_session())
        streaming = await other.start(new_session())
        await other.attach(streaming.session_id, "key", 1, 60, writer=True)
        limit, left, seconds = await limited(store, new_session())
        assert (limit, left) == ("streams", (None, 0, None))
        assert 1 <= seconds <= 10
        await store.finish(streaming.session_id, Reply(1, "Done.", stopped()), "provider")
        await store.start(new_session())
        assert (await limited(other, new_session()))[0] == "streams"
        await store.request_stop(waiting.session_id, "ada")
        await store.start(new_session())
        assert (await limited(store, new_session()))[0] == "streams"

    async def test_what_nobody_reads_holds_nobody_up(self, stage: Stage, store: Store) -> None:
        await stage.limit("free", Allowance(concurrent_streams=1, tokens_per_day=RESERVE))
        await store.start(new_session(FORTY))
        await stage.pass_time(599)
        assert (await limited(store, new_session(FORTY)))[0] == "tokens"
        await stage.pass_time(2)
        # Its server crashed: nobody vouches for it, for as long as the purge gives it.
        crashed = await store.start(new_session(FORTY))
        await store.attach(crashed.session_id, "key", 1, 10, writer=True)
        await stage.pass_time(60)
        assert (await limited(store, new_session(FORTY)))[1] == (None, 0, 0)
        await stage.pass_time(11)
        await store.start(new_session(FORTY))

    # -- tokens a day ----------------------------------------------------------------------------

    async def test_tokens_are_set_aside_until_the_reply_ends(self, stage: Stage, store: Store) -> None:
        await stage.limit("free", Allowance(tokens_per_day=3 * RESERVE - 1))
        first, second = await store.start(new_session(FORTY)), await store.start(new_session(FORTY))
        limit, left, seconds = await limited(store, new_session(FORTY))
        assert (limit, left) == ("tokens", (None, None, RESERVE - 1))
        # No need to wait for tomorrow: what the others do not use comes back.
        assert seconds <= 10
        assert await stage.used("ada") == {}
        await answered(store, first, stopped(Usage(9, 1), FinishReason.STOP))
        assert await stage.used("ada") == {"small": (9, 1)}
        third = await store.start(new_session(FORTY))
        assert (await limited(store, new_session(FORTY)))[1] == (None, None, RESERVE - 11)
        # More than was set aside is charged as well, and refuses until tomorrow.
        await answered(store, second, stopped(Usage(1000, 1), FinishReason.STOP))
        await answered(store, third, Failed("provider_quota", "No.", retryable=False), "")
        limit, left, seconds = await limited(store, new_session(FORTY))
        assert (limit, left) == ("tokens", (None, None, 0))
        midnight = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
        assert abs((midnight - datetime.now(UTC)).total_seconds() - seconds) < 5
        await stage.pass_time(DAY)
        assert await stage.used("ada") == {}
        await store.start(new_session(FORTY))

    async def test_a_longer_chat_sets_more_aside(self, stage: Stage, store: Store) -> None:
        started = await store.start(new_session(FORTY))
        await answered(store, started, stopped(Usage(0, 0)), "x" * 360)
        await stage.limit("free", Allowance(tokens_per_day=100 + 110 - 1))
        assert (await limited(store, new_session(FORTY, chat_id=started.chat_id)))[0] == "tokens"
        await stage.limit("free", Allowance(tokens_per_day=100 + 110))
        again = await store.start(new_session(FORTY, chat_id=started.chat_id))
        # To answer the same question anew adds nothing to the chat.
        await answered(store, again, stopped(Usage(0, 0)), "")
        again = await store.start(new_session(None, chat_id=started.chat_id, regenerate=True))
        # What the context has no room for is not sent: it takes 1000 characters.
        await answered(store, again, stopped(Usage(0, 0)), "x" * 5000)
        await stage.limit("free", Allowance(tokens_per_day=100 + 250))
        last = await store.start(new_session(FORTY, chat_id=started.chat_id))
        await answered(store, last, stopped(Usage(0, 0)), "")
        await stage.limit("free", Allowance(tokens_per_day=100 + 249))
        assert (await limited(store, new_session(FORTY, chat_id=started.chat_id)))[0] == "tokens"
        # A prompt is sent whole, whatever the context takes.
        await stage.limit("free", Allowance(tokens_per_day=100 + 299))
        assert (await limited(store, new_session("x" * 1200)))[0] == "tokens"
        await store.start(new_session("x" * 1196))

    @pytest.mark.parametrize(
        ("text", "end", "expected"),
        [
            ("x" * 10, stopped(Usage(3, 4), FinishReason.STOP), (3, 4)),
            ("x" * 10, stopped(Usage(3, 4), FinishReason.LENGTH), (3, 4)),
            ("x" * 10, stopped(), (10, 3)),
            ("", stopped(), (10, 0)),
            ("x" * 8, stopped(None, FinishReason.TRUNCATED), (10, 2)),
            ("x" * 9, Failed("interrupted", "Gone.", retryable=True), (10, 3)),
            ("", Failed("provider_overloaded", "Busy.", retryable=True), (0, 0)),
        ],
    )
    async def test_a_reply_is_charged_once_as_counted_or_estimated(
        self, stage: Stage, store: Store, other: Store, text: str, end: End, expected: tuple[int, int]
    ) -> None:
        started = await store.start(new_session(FORTY))
        await store.attach(started.session_id, "key", 1, 60, writer=True, asks=True)
        # To attach again, for whatever reason, takes nothing back.
        await store.attach(started.session_id, "key", 1, 60, writer=True)
        reply = Reply(1, text, end)
        outcomes = await asyncio.gather(
            *(
                place.finish(started.session_id, reply, source)
                for place in (store, other)
                for source in ("provider", "joined", "provider")
            )
        )
        assert sorted(map(type, outcomes), key=str) == sorted([Saved] + [Ended] * 5, key=str)
        assert (await stage.used("ada")).get("small", (0, 0)) == expected
        await stage.pass_time(1000)
        await store.purge_sessions(10)
        assert (await stage.used("ada")).get("small", (0, 0)) == expected

    async def test_who_had_no_model_asked_pays_nothing(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        full = Reply(1, "All of it.", stopped(Usage(3, 4), FinishReason.STOP))
        hit = await store.start(new_session(FORTY))
        await store.finish(hit.session_id, full, "cache")
        joined = await store.start(new_session(FORTY))
        await store.attach(joined.session_id, "key", 1, 60, writer=True)
        # The purge, who finds it without its process, knows no better source than this.
        await other.finish(joined.session_id, full, "provider")
        unread = await store.start(new_session(FORTY))
        await store.request_stop(unread.session_id, "ada")
        await stage.store(session_seconds=0).start(new_session(FORTY))
        assert await store.expire_sessions(10) == 1
        assert await stage.used("ada") == {}

    async def test_whoever_saves_a_reply_the_one_who_asked_pays(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        full = Reply(1, "All of it.", stopped(Usage(3, 4), FinishReason.STOP))
        started = await store.start(new_session(FORTY))
        await store.attach(started.session_id, "key", 1, 60, writer=True, asks=True)
        await other.attach(started.session_id, "key", 1, 60, writer=False)
        await other.finish(started.session_id, full, "joined")
        assert await stage.used("ada") == {"small": (3, 4)}

    async def test_usage_adds_up_by_model(self, stage: Stage, store: Store) -> None:
        for model, usage in (("small", Usage(1, 2)), ("large", Usage(10, 20)), ("small", Usage(100, 200))):
            await answered(store, await store.start(new_session(FORTY, model, "bob")), stopped(usage))
        assert await stage.used("bob") == {"small": (101, 202), "large": (10, 20)}
        assert await stage.used("ada") == {}
        # All of a user's models draw on one budget; `large` has a system prompt of 8 characters.
        await stage.limit("pro", Allowance(tokens_per_day=333 + 112))
        await store.start(new_session(FORTY, "large", "bob"))
        assert await limited(store, new_session(FORTY, "large", "bob"))

    # -- several askers of one generation --------------------------------------------------------

    @pytest.mark.parametrize(
        ("ends", "first", "second"),
        # What was charged stands; what is not charged yet is charged as the writer says.
        [("before", (7, 22), (5, 78)), ("after", (5, 20), (7, 80))],
    )
    async def test_a_later_asker_is_charged_what_the_earlier_one_was_not(
        self,
        stage: Stage,
        store: Store,
        other: Store,
        ends: str,
        first: tuple[int, int],
        second: tuple[int, int],
    ) -> None:
        asker, reader = await follows(store, asks=True), await follows(other, "bob")
        if ends == "before":
            await other.finish(asker, partial(7, 22), "joined")
        assert await store.hand_over(asker, [reader], "key", 1, Spent(5, 20)) == reader
        if ends == "after":
            await other.finish(asker, partial(7, 22), "joined")
        await other.finish(reader, WHOLE, "joined")
        assert await stage.used("ada") == {"small": first}
        assert await stage.used("bob") == {"small": second}

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_three_askers_are_charged_once_in_whichever_order_they_end(
        self, stage: Stage, store: Store, other: Store, order: tuple[int, ...]
    ) -> None:
        askers = [await follows(store, asks=True), await follows(other), await follows(store, "bob")]
        assert await store.hand_over(askers[0], askers[1:], "key", 1, Spent(12, 10)) == askers[1]
        assert await store.hand_over(askers[1], askers[2:], "key", 1, Spent(12, 40)) == askers[2]
        replies = [partial(12, 11), partial(None, 41), WHOLE]
        for number in order:
            assert await other.finish(askers[number], replies[number], "joined") == Saved()
        assert await stage.used("ada") == {"small": (12, 40)}
        assert await stage.used("bob") == {"small": (0, 60)}

    async def test_an_end_and_a_hand_over_at_once_are_charged_once(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        for number in range(1, 9):
            asker, reader = await follows(store, asks=True), await follows(other, "bob")
            await asyncio.gather(
                store.hand_over(asker, [reader], "key", 1, Spent(5, 20)),
                other.finish(asker, partial(7, 22), "joined"),
            )
            await other.finish(reader, WHOLE, "joined")
            mine, theirs = (await stage.used("ada"))["small"], (await stage.used("bob"))["small"]
            assert (mine[0] + theirs[0], mine[1] + theirs[1]) == (12 * number, 100 * number)

    async def test_a_repeated_hand_over_changes_nothing(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        asker, *readers = [await follows(store, asks=True), *[await follows(other, "bob") for _ in range(3)]]
        for spent in (Spent(5, 20), Spent(5, 30), Spent(5, 40)):
            assert await store.hand_over(asker, readers, "key", 1, spent) == readers[0]
        for session_id in (asker, *readers):
            await store.finish(session_id, WHOLE, "joined")
        assert await stage.used("ada") == {"small": (5, 20)}
        assert await stage.used("bob") == {"small": (7, 80)}

    async def test_who_cannot_read_to_the_end_becomes_no_asker(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        await stage.add_user("cleo", "free")
        asker = await follows(store, asks=True)
        ended, stopping = await follows(other), await follows(other)
        await other.finish(ended, partial(0, 1), "joined")
        await other.request_stop(stopping, None)
        candidates = [
            ended,
            stopping,
            await follows(other, epoch=2),
            await follows(other, key="another"),
            await follows(other, "cleo"),
            (await store.start(new_session(FORTY))).session_id,
            "never was",
        ]
        await stage.disable("cleo")
        assert await store.hand_over(asker, candidates, "key", 1, Spent(5, 20)) is None
        assert await store.hand_over(asker, [], "key", 1, Spent(5, 20)) is None
        # Nobody took over, so the asker is charged as if nobody had been asked.
        await store.finish(asker, WHOLE, "provider")
        assert await stage.used("ada") == {"small": (12, 100)}

    async def test_a_session_that_lives_is_the_asker_and_keeps_its_lease(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        asker = await follows(store, asks=True)
        dead, alive = await follows(other, lease=5), await follows(other)
        await stage.pass_time(10)
        assert await store.hand_over(asker, [dead, alive], "key", 1, Spent(5, 20)) == alive
        assert (await store.session(alive)).leased
        assert not (await other.session(alive)).leased
        # Better a dead one than nobody: it may be read again.
        await store.request_stop(alive, None)
        assert await store.hand_over(alive, [dead], "key", 1, Spent(5, 30)) == dead
        assert not (await store.session(dead)).leased

    async def test_an_asker_stays_while_it_lives(self, stage: Stage, store: Store, other: Store) -> None:
        reader = await follows(store, "bob")
        asker = await follows(other, asks=True, lease=20)
        for _ in range(2):
            assert await store.hand_over(asker, [asker, reader], "key", 1, Spent(5, 20)) == asker
            await stage.pass_time(6)
        assert await store.hand_over(asker, [asker], "key", 1, Spent(5, 20)) == asker
        await stage.pass_time(20)
        assert await store.hand_over(asker, [asker, reader], "key", 1, Spent(5, 30)) == reader
        # It came back, and then the other one left.
        assert await store.hand_over(reader, [asker], "key", 1, Spent(5, 50)) == asker
        await store.finish(reader, partial(None, 60), "joined")
        assert await stage.used("bob") == {"small": (0, 20)}
        await store.finish(asker, WHOLE, "joined")
        assert await stage.used("ada") == {"small": (12, 80)}

    async def test_an_untold_input_is_charged_once_too(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        asker, reader = await follows(store, asks=True), await follows(other, "bob")
        assert await store.hand_over(asker, [reader], "key", 1, Spent(None, 20)) == reader
        for session_id in (reader, asker):
            await store.finish(session_id, partial(None, 30), "joined")
        # 40 characters are set aside as 10 tokens.
        assert await stage.used("ada") == {"small": (10, 20)}
        assert await stage.used("bob") == {"small": (0, 10)}

    async def test_an_earlier_asker_that_was_charged_too_much_gives_nothing_back(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        asker, reader = await follows(store, asks=True), await follows(other, "bob")
        await store.finish(asker, partial(50, 150), "provider")
        assert await store.hand_over(asker, [reader], "key", 1, Spent(5, 20)) == reader
        await store.finish(reader, WHOLE, "joined")
        assert await stage.used("ada") == {"small": (50, 150)}
        assert await stage.used("bob") == {"small": (0, 0)}

    async def test_where_nobody_asked_before_the_next_one_is_charged_all(
        self, stage: Stage, store: Store
    ) -> None:
        reader = await follows(store)
        assert await store.hand_over(None, [reader], "key", 1, Spent(0, 0)) == reader
        await store.finish(reader, WHOLE, "joined")
        assert await stage.used("ada") == {"small": (12, 100)}

    @pytest.mark.parametrize("attached", [True, False])
    async def test_who_asked_a_writer_that_died_is_not_charged_for_its_successor_s_reply(
        self, stage: Stage, store: Store, other: Store, attached: bool
    ) -> None:
        asker, indebted = await follows(store, asks=True), await follows(store, "bob")
        assert await store.hand_over(asker, [indebted], "key", 1, Spent(5, 20)) == indebted
        assert await store.hand_over(indebted, [asker], "key", 1, Spent(5, 50)) == asker
        successor = await follows(other, asks=True, epoch=2)
        if attached:
            for session_id in (asker, indebted):
                assert await other.attach(session_id, "key", 2, 60, writer=False) == Attached()
        whole = Reply(2, "All of it.", Completed(FinishReason.STOP, None, Usage(12, 100)))
        for session_id in (asker, indebted, successor):
            assert await other.finish(session_id, whole, "joined") == Saved()
        # What was owed before is owed still: to hand over is to be charged until then.
        assert await stage.used("bob") == {"small": (0, 30)}
        assert await stage.used("ada") == {"small": (12, 100)}

    async def test_who_takes_over_its_own_reply_is_charged_for_it_once(
        self, stage: Stage, store: Store, other: Store
    ) -> None:
        asker = await follows(store, asks=True, lease=5)
        await stage.pass_time(10)
        assert await other.attach(asker, "key", 2, 60, writer=True, asks=True) == Attached()
        await other.finish(asker, Reply(2, "All of it.", WHOLE.end), "provider")
        assert await stage.used("ada") == {"small": (12, 100)}
        claimed = await follows(store, "bob", asks=True, lease=5)
        await stage.pass_time(10)
        epoch = await other.claim(claimed, "key", 60)
        assert isinstance(epoch, int)
        # Whoever ends it before a model was asked again pays nothing for the epoch that was claimed.
        await other.finish(claimed, Reply(epoch, "", stopped()), "provider")
        assert await stage.used("bob") == {}

    # -- all of them -----------------------------------------------------------------------------

    async def test_a_known_reply_is_a_request_and_costs_no_tokens(self, stage: Stage, store: Store) -> None:
        entry = (await store.start(new_session())).model
        assert entry is not None
        known: dict[str, Any] = {
            "model_version": entry.version,
            "answer": Reply(1, "Because." * 40, Completed(FinishReason.STOP, None, Usage(3, 4))),
        }
        await stage.limit("free", Allowance(requests_per_minute=3, concurrent_streams=2, tokens_per_day=300))
        started = await store.start(new_session(FORTY, **known))
        assert started.answered
        assert await stage.used("ada") == {}
        # It runs no longer, and sets nothing aside; what it said is in the next question's context.
        _, left, _ = await limited(store, new_session(FORTY * 4, chat_id=started.chat_id))
        assert left == (1, 1, 300 - 101)
        assert (await store.start(new_session(**known))).answered
        assert (await limited(store, new_session(**known)))[0] == "requests"

    async def test_a_repeat_is_never_refused(self, stage: Stage, store: Store, other: Store) -> None:
        await stage.limit("free", Allowance(1, 1, RESERVE))
        asked = new_session(FORTY, idempotency_key="k")
        first = await store.start(asked)
        for again in (asked, new_session(FORTY, idempotency_key="k")):
            assert await other.start(again) == first
        assert (await limited(store, new_session(FORTY)))[:2] == ("tokens", (0, 0, 0))
        await answered(store, first, stopped(Usage(10_000, 1)))
        assert await other.start(new_session(FORTY, idempotency_key="k")) == first

    async def test_what_is_wrong_anyway_says_so_first(self, stage: Stage, store: Store) -> None:
        started = await store.start(new_session(FORTY))
        await stage.limit("free", Allowance(1, 1, 1))
        refusals: list[tuple[dict[str, Any], str]] = [
            ({"model": "unheard-of"}, "unknown_model"),
            ({"model": "large"}, "model_not_in_plan"),
            ({"chat_id": "unheard-of"}, "not_found"),
            ({"chat_id": started.chat_id}, "chat_busy"),
        ]
        for fields, code in refusals:
            kind: type[ParleyError] = await refusal(store.start(new_session(**fields)))
            assert kind.code == code
        await store.request_stop(started.session_id, "ada")
        assert await limited(store, new_session(FORTY, chat_id=started.chat_id))
        assert len((await store.history("ada", started.chat_id, None, 9)).messages) == 2
