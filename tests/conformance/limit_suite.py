"""How every `ports.Store` keeps to what a plan allows; each test file runs it on one.

The model `small` writes 100 tokens at most, so a prompt of 40 characters in a new chat sets aside 110.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from parley.domain.conversation import NewSession, Reply, Started
from parley.domain.errors import LimitExceeded, ParleyError
from parley.domain.events import Completed, End, Failed, FinishReason, Usage
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
