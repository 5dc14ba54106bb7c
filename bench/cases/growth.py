"""Growth: more streams, longer chats, more sessions; each should cost what it did when small."""

import asyncio
import contextlib
import statistics
from collections.abc import Mapping

import psycopg

from bench.bench import Bench, log
from bench.cases import streams
from bench.cases.path import one_by_one
from bench.contenders import FloorRelay, Parley
from bench.driver import BadAnswer, ask, get, post, require
from bench.invocations import Function
from bench.servers import USER, Contender

STREAMS, CHATS, SESSIONS = "growth_streams", "growth_chats", "growth_sessions"
# Its context is bounded, so a longer chat does not make a longer question.
_MODEL = "context/full-20"
_EXPIRED = 1000

_CHAT = """
with chat as (
    insert into chats (id, owner_id, title, model_id, next_position)
    values (%(chat)s, %(user)s, 'A long chat', %(model)s, %(messages)s + 1) returning id)
insert into messages (id, chat_id, position, role, status, parts, reply_to, completed_at)
select %(chat)s || '-' || n, chat.id, n, case when n %% 2 = 1 then 'user' else 'assistant' end, 'complete',
       jsonb_build_array(jsonb_build_object('type', 'text', 'text', repeat('word ', 40) || n)),
       case when n %% 2 = 0 then %(chat)s || '-' || (n - 1) end, now()
  from chat, generate_series(1, %(messages)s) n
"""
_SESSIONS = """
with made as (
    insert into chats (id, owner_id, title, model_id)
    select %(name)s || '-' || n, %(user)s, 'A chat', 'full-20'
      from generate_series(1, greatest(1, %(sessions)s / 10)) n returning id)
insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate, state, request_hash,
                      expires_at, ended_at)
select made.id || '-' || n, %(user)s, made.id, 'none', 'none', 'full-20', false, 'ended', '',
       now() + make_interval(secs => %(seconds)s), now()
  from made, generate_series(1, least(10, %(sessions)s)) n
"""


async def run(bench: Bench) -> None:
    """Measure Parley; for the streams, the floor beside it."""
    await _streams(bench, [each for each in bench.contenders if isinstance(each, Parley | FloorRelay)])
    builds = [each for each in bench.contenders if isinstance(each, Parley)]
    for messages in (10, 100, 1000, 10_000):
        log(f"growth: a chat of {messages:,} messages")
        await _chats(bench, builds, messages)
    with contextlib.ExitStack() as stack:
        purges = {build.label: stack.enter_context(_purge(bench, build)) for build in builds}
        there = 0
        for sessions in (10, 1000, 100_000) if bench.quick else (10, 1000, 100_000, 1_000_000):
            if sessions > 100_000 and bench.late():
                bench.sheet.note(
                    "growth: the machine was busy, and there was no time to put 1,000,000 sessions in."
                )
                return
            log(f"growth: {sessions:,} sessions")
            await _sessions(bench, builds, purges, there, sessions)
            there = sessions


def _row(bench: Bench, contender: Contender, row: str) -> str:
    """Return the name of a row; the rows of an older build say that they are its."""
    return row if contender.label == bench.builds[0].label else f"{row}, {contender.label}"


async def _streams(bench: Bench, contenders: list[Contender]) -> None:
    for count in (1, 10, 100):
        for _, turn in bench.rounds(contenders, 1):
            for contender in turn:
                log(f"growth of streams: {count} of {contender.label}")
                async with bench.awake(contender):
                    await streams.measure(bench, contender, count, str(count))
    for contender in contenders:
        who = "parley" if isinstance(contender, Parley) else "floor"
        for count in (1, 10, 100, 1000):
            row = f"streams {count:,}"
            if isinstance(contender, Parley):
                row = _row(bench, contender, row)
            for figure in ("cpu", "memory") if count >= 100 else ("cpu",):
                source = streams.TABLE, contender.label, f"{figure}_{count}"
                bench.sheet.copy(source, (STREAMS, row, f"{who}_{figure}"))


async def _chats(bench: Bench, builds: list[Parley], messages: int) -> None:
    for number, turn in bench.rounds(builds, 1):
        for parley in turn:
            # Each round has a chat of its own: it grows while it is measured.
            chat = f"growth-{messages}-{number}"
            row = {"chat": chat, "user": USER, "model": _MODEL, "messages": messages}
            async with bench.awake(parley):
                await asyncio.to_thread(_fill, parley, _CHAT, row)
                await _chat(bench, parley, chat, _row(bench, parley, f"messages {messages:,}"))


async def _chat(bench: Bench, parley: Parley, chat: str, row: str) -> None:
    count = bench.count(40)
    cpu = parley.cpu()
    request = get("/api/chat/history", chatId=chat, userId=USER)
    exchanges = await one_by_one(parley, [request] * count)
    require(exchanges)
    bench.sheet.add(CHATS, row, "history", statistics.median(e.last for e in exchanges))
    bench.sheet.add(CHATS, row, "history_cpu", (parley.cpu() - cpu) / count)
    times = []
    cpu = parley.cpu()
    for prompt in bench.prompts(bench.count(20)):
        body = {"prompt": prompt, "modelId": _MODEL, "chatId": chat, "userId": USER}
        started = (await ask(parley.url, post("/api/chat/start", body))).body()
        exchange = await ask(parley.url, parley.stream_request(started))
        require([exchange], tokens=20)
        times.append(exchange.first)
    bench.sheet.add(CHATS, row, "miss", statistics.median(times))
    bench.sheet.add(CHATS, row, "miss_cpu", (parley.cpu() - cpu) / len(times))


async def _sessions(
    bench: Bench, builds: list[Parley], purges: Mapping[str, Function], there: int, sessions: int
) -> None:
    ready: list[Parley] = []
    for parley in builds:
        with bench.noting(parley):
            await _add(parley, f"live-{sessions}", sessions - there, 3600)
            # Its import, and whatever has expired by now, are not to be in the figure.
            await asyncio.to_thread(purges[parley.label].invoke, {})
            ready.append(parley)
    for number, turn in bench.rounds(ready, 1):
        for parley in turn:
            row = _row(bench, parley, f"sessions {sessions:,}")
            async with bench.awake(parley):
                count = bench.count(60)
                cpu = parley.cpu()
                requests = [parley.start_request(prompt, "full-20") for prompt in bench.prompts(count)]
                exchanges = await one_by_one(parley, requests)
                require(exchanges)
                bench.sheet.add(SESSIONS, row, "start", statistics.median(e.last for e in exchanges))
                bench.sheet.add(SESSIONS, row, "start_cpu", (parley.cpu() - cpu) / count)
            with bench.noting(parley):
                name = f"old-{sessions}-{number}"
                await _add(parley, name, _EXPIRED, -60)
                said = await asyncio.to_thread(purges[parley.label].invoke, {})
                if left := await asyncio.to_thread(_left, parley, name):
                    raise BadAnswer(f"the purge left {left} sessions of {_EXPIRED}")
                bench.sheet.add(SESSIONS, row, "purge", said["seconds"])


def _purge(bench: Bench, parley: Parley) -> Function:
    log_file = bench.folder / f"{parley.build.name}-purge.log"
    return Function(parley.build, "purge", parley.environment(), log_file)


async def _add(parley: Parley, name: str, sessions: int, seconds: float) -> None:
    row = {"name": name, "user": USER, "sessions": sessions, "seconds": seconds}
    await asyncio.to_thread(_fill, parley, _SESSIONS, row)


def _fill(parley: Parley, statement: str, row: Mapping[str, object]) -> None:
    """Put rows in; raises `BadAnswer` where a build's tables have other columns."""
    try:
        with psycopg.connect(parley.database_url, autocommit=True) as connection:
            connection.execute(statement.encode(), row)
            connection.execute("analyze sessions, chats, messages")
    except psycopg.Error as error:
        raise BadAnswer(f"its tables take no rows of the benchmark: {error}") from None


def _left(parley: Parley, name: str) -> int:
    """Return how many sessions of such a name are still there."""
    with psycopg.connect(parley.database_url) as connection:
        row = connection.execute("select count(*) from sessions where id like %s", [f"{name}-%"]).fetchone()
        assert row is not None
        return int(row[0])
