"""A start whose transaction is cut, frozen or repeated in the middle: rows 14, 44, 46, 47 of the faults."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import psycopg
import pytest

from local.fake_provider import reply_to
from parley.domain.conversation import ModelOptions, SessionState, Started
from parley.domain.errors import ChatBusy, InvalidRequest, LimitExceeded, StoreUnavailable
from parley.domain.limits import Allowance
from parley.domain.results import Ended
from parley.domain.start import StartPlan, decide
from parley.postgres.batch import Query
from parley.postgres.pool import Pool
from parley.postgres.prepared import Row
from parley.postgres.start_reads import AccountRow, snapshot
from parley.postgres.store import PostgresStore
from parley.postgres.transaction import Transaction
from tests.client import eventually
from tests.conformance.backends import PostgresStage
from tests.conformance.requests import new_session, turn
from tests.faults.proxy import FaultProxy
from tests.world import World

T = TypeVar("T")


class Interrupted(Pool):
    """A pool whose transactions have something happen between what they read and what they write."""

    def __init__(self, url: str, between: Callable[[], None], *, timeout: float) -> None:
        super().__init__(url, size=1, timeout=timeout, prepare=True)
        self._between = between
        self.decisions = 0

    async def transact(self, transaction: Transaction[T], *, queue: str) -> T:
        decide = transaction.decide

        def interrupted(rows: list[list[Row]]) -> tuple[Sequence[Query], T]:
            self.decisions += 1
            decided = decide(rows)
            self._between()
            return decided

        transaction.decide = interrupted
        return await super().transact(transaction, queue=queue)


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[PostgresStage]:
    made = await PostgresStage.load(database_url)
    await made.add_user("ada", "free")
    yield made
    await made.close()


def count(database_url: str) -> tuple[int, int, int]:
    """Return how many chats, messages and sessions there are."""
    with psycopg.connect(database_url) as admin:
        [row] = admin.execute(
            "select (select count(*) from chats), (select count(*) from messages),"
            " (select count(*) from sessions)"
        ).fetchall()
    found: tuple[int, int, int] = row
    return found


def _kill_backends(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            "select pg_terminate_backend(pid, 30000) from pg_stat_activity"
            " where datname = current_database() and application_name = 'parley'"
        )


@pytest.mark.parametrize("kind", ["a new chat", "in a chat", "regenerate"])
async def test_46_a_connection_killed_before_a_start_writes_costs_one_repetition(
    stage: PostgresStage, database_url: str, kind: str
) -> None:
    fields: dict[str, Any] = {}
    if kind != "a new chat":
        fields = {"chat_id": (await turn(stage.store(), "Why?")).chat_id, "regenerate": kind == "regenerate"}
    before = count(database_url)

    def kill_once() -> None:
        if pool.decisions == 1:
            _kill_backends(database_url)

    pool = Interrupted(database_url, kill_once, timeout=20)
    store = PostgresStore(pool, owner="here", session_seconds=600)
    started = await store.start(new_session("Why?", **fields))
    assert pool.decisions == 2
    chats, messages, sessions = before
    expected = (chats + (not fields), messages + (1 if kind == "regenerate" else 2), sessions + 1)
    assert count(database_url) == expected
    assert (await stage.store().session(started.session_id)).turns[-1].text == "Why?"
    await store.close()


@pytest.mark.parametrize("in_chat", [False, True])
async def test_14_a_start_whose_commit_was_lost_finds_its_own_session(
    stage: PostgresStage, database_url: str, in_chat: bool
) -> None:
    chat = (await turn(stage.store(), "Before?")).chat_id if in_chat else None
    before = count(database_url)
    async with FaultProxy(database_url) as proxy:
        pool = Interrupted(proxy.url, lambda: proxy.stall(proxy.down), timeout=20)
        await pool.run("select 1")
        store = PostgresStore(pool, owner="here", session_seconds=600)
        asked = new_session("Why?", chat_id=chat)
        task = asyncio.create_task(store.start(asked))
        await eventually(lambda: count(database_url) != before)
        # The server has committed, and its answer never comes. The repetition may be interrupted no more.
        pool._between = lambda: None
        proxy.reset()
        await proxy.heal()
        started = await task
        assert (started.session_id, started.reply_id) == (asked.new_session_id, asked.new_reply_id)
        assert pool.decisions == 2
        chats, messages, sessions = before
        assert count(database_url) == (chats + (not in_chat), messages + 2, sessions + 1)
        await store.close()


async def test_44_a_start_that_was_too_late_leaves_nothing(stage: PostgresStage, database_url: str) -> None:
    await turn(stage.store(), "Why?", new_chat_id="chat")
    before = count(database_url)
    store = PostgresStore(
        Pool(database_url, size=2, timeout=1, prepare=True), owner="here", session_seconds=600
    )
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("begin; select from users where id = 'ada' for update")
        for chat_id in (None, "chat", None):
            with pytest.raises(StoreUnavailable):
                await store.start(new_session("Late?", chat_id=chat_id))
        admin.execute("rollback")

    async def quiet() -> bool:
        with psycopg.connect(database_url) as admin:
            return admin.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'parley' and state <> 'idle'"
            ).fetchone() == (0,)

    await eventually(quiet)
    assert count(database_url) == before
    assert isinstance(await store.start(new_session("Now?", chat_id="chat")), Started)
    await store.close()


async def test_47_starts_and_ends_at_once_in_one_chat_leave_a_whole_chat(
    stage: PostgresStage, database_url: str
) -> None:
    stores = [stage.store(str(number)) for number in range(3)]
    chat = (await turn(stores[0], "First?")).chat_id

    async def live(store: Any, name: str) -> int:
        done = 0
        while done < 8:
            try:
                await turn(store, f"{name} {done}?", chat_id=chat)
            except ChatBusy:
                await asyncio.sleep(0)
                continue
            done += 1
        return done

    lives = (live(store, str(number)) for number, store in enumerate(stores))
    assert await asyncio.gather(*lives) == [8, 8, 8]
    page = await stores[0].history("ada", chat, None, 100)
    assert [message.position for message in page.messages] == list(range(1, 51))
    assert [message.status for message in page.messages] == ["complete"] * 50


async def test_46_a_frozen_process_frees_its_user_within_seconds(world: World) -> None:
    model = world.model("frozen")
    async with FaultProxy(world.database_url) as proxy:
        frozen = world.server(DATABASE_URL=proxy.url, DATABASE_TIMEOUT="60")
        here = world.client(frozen)
        await here.ask("Load everything.", model)
        # What the locks are taken by is on its way back when the process stops, as a sandbox is frozen.
        proxy.stall(proxy.down)
        late = asyncio.create_task(here.start("Am I frozen?", model))

        def locked() -> bool:
            rows = world.sql(
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and state = 'idle in transaction'"
            )
            return bool(rows == [(1,)])

        await eventually(locked)
        frozen.freeze()
        # Ten seconds, by the database's clock; without them this start would wait for the whole minute.
        there = world.client(world.server(DATABASE_TIMEOUT="45"))
        _, reading = await there.ask("Am I held up?", model)
        assert reading.text == reply_to("Am I held up?")
        frozen.thaw()
        await proxy.heal()
        # The thawed process finds its connection gone, and starts anew.
        started = await late
        assert (await here.read(started["sessionId"])).text == reply_to("Am I frozen?")
    asked = "select count(*) from messages where parts -> 0 ->> 'text' = 'Am I frozen?'"
    assert world.sql(asked) == [(1,)]


async def test_14_a_user_who_appears_after_the_lock_is_locked_before_anything_is_decided(
    stage: PostgresStage, database_url: str
) -> None:
    await stage.limit("free", Allowance(concurrent_streams=1))
    stores = [stage.store(str(number), create_users=True) for number in range(2)]
    for store in stores:
        await store.check()
    with psycopg.connect(database_url, autocommit=True) as admin:
        # The first statement finds no user; the second waits here, and would find one.
        admin.execute("begin; lock table plans in access exclusive mode")
        starts = [asyncio.create_task(store.start(new_session(user="new"))) for store in stores]

        def both_wait() -> bool:
            with psycopg.connect(database_url) as observer:
                rows = observer.execute(
                    "select count(*) from pg_stat_activity"
                    " where datname = current_database() and wait_event_type = 'Lock'"
                ).fetchone()
            return rows == (2,)

        await eventually(both_wait)
        admin.execute("insert into users (id, plan_id) values ('new', 'free'); commit")
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["LimitExceeded", "Started"]


async def test_a_session_lasts_as_long_where_the_clocks_go_back() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    # The second time that this hour comes; ten minutes later by the clock's face is fifty minutes earlier.
    now = datetime(2026, 10, 25, 2, 50, fold=1, tzinfo=berlin)
    row = AccountRow(
        now=now, disabled=False, requests_per_minute=1, concurrent_streams=None, tokens_per_day=None,
        requests=1, oldest_request=datetime.fromtimestamp(now.timestamp() - 20, berlin),
        streams=None, reserved=None, tokens=None,
        model_version="1", in_plan=True, max_output_tokens=1, context_characters=1, system_characters=0,
        model=None, earlier_id=None, earlier_user="", earlier_hash="", earlier_chat="", earlier_message="",
        earlier_reply="", earlier_expires_at=now, earlier_cached=None,
    )  # fmt: skip
    asked = new_session()
    limited = snapshot(asked, [[(None,)], [row]])
    unlimited = snapshot(asked, [[(None,)], [row._replace(requests_per_minute=None)]])
    assert limited is not None
    assert unlimited is not None
    plan = decide(unlimited, asked, 600)
    assert isinstance(plan, StartPlan)
    assert plan.started.expires_at.timestamp() == now.timestamp() + 600
    refused = decide(limited, asked, 600)
    assert isinstance(refused, LimitExceeded)
    assert refused.retry_after == 40


async def test_16_a_session_that_this_start_ends_is_taken_up_by_nobody(
    stage: PostgresStage, database_url: str
) -> None:
    expired = await stage.store(session_seconds=0).start(new_session())
    attached: list[asyncio.Task[Any]] = []
    loop, reader = asyncio.get_running_loop(), stage.store("reader")
    await reader.check()

    def attach() -> None:
        """Have another process try to take the session up while the start holds its locks."""
        with psycopg.connect(database_url, autocommit=True) as observer:
            observer.execute(
                "create temp table if not exists seen as select 1 where exists"
                " (select from sessions where id = %s for update skip locked)",
                [expired.session_id],
            )
            locked = observer.execute("select count(*) from seen").fetchone()
        assert locked == (0,), "the start has the session's row"
        attached.append(loop.create_task(reader.attach(expired.session_id, "key", 1, 60, writer=True)))

    pool = Interrupted(database_url, attach, timeout=20)
    store = PostgresStore(pool, owner="here", session_seconds=600)
    started = await store.start(new_session("And now?", chat_id=expired.chat_id))
    assert isinstance(await attached[0], Ended)
    assert (await reader.session(started.session_id)).state is SessionState.OPEN
    await store.close()


@pytest.mark.parametrize("odd", ["5", '"x"', "[]", "null", '{"context_tokens": "many"}'])
async def test_a_model_with_odd_options_is_asked_without_them(
    stage: PostgresStage, database_url: str, odd: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("update models set options = %s::jsonb", [odd])
    store = stage.store()
    started = await store.start(new_session())
    assert started.model is not None
    assert (await store.session(started.session_id)).model.options == ModelOptions()


@pytest.mark.parametrize("odd", ["null", "[]", '["x"]', '[{"type": "text"}]'])
async def test_a_question_with_odd_parts_is_a_question_without_text(
    stage: PostgresStage, database_url: str, odd: str
) -> None:
    store = stage.store()
    chat = (await turn(store, "Why?")).chat_id
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("update messages set parts = %s::jsonb where role = 'user'", [odd])
    with pytest.raises(InvalidRequest):
        await store.start(new_session("Why?", chat_id=chat, regenerate=True))
    await store.start(new_session(None, chat_id=chat, regenerate=True))
