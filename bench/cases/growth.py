"""Growth: more streams, longer chats, more sessions; each should cost what it did when small."""

import asyncio
import statistics
import time

import psycopg

from bench.bench import Bench, log
from bench.cases import streams
from bench.cases.path import one_by_one
from bench.contenders import KEY_SECRET, FloorRelay, Parley
from bench.driver import BadAnswer, ask, get, post, require
from bench.servers import USER
from parley import bootstrap
from parley.purge import purge
from parley.settings import Settings

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
    for contender in bench.contenders:
        if isinstance(contender, Parley | FloorRelay):
            await _streams(bench, contender)
    for contender in bench.contenders:
        if isinstance(contender, Parley):
            await _chats(bench, contender)
            await _sessions(bench, contender)


async def _streams(bench: Bench, contender: Parley | FloorRelay) -> None:
    who = "parley" if isinstance(contender, Parley) else "floor"
    log(f"growth of streams: {who}")
    for count in (1, 10, 100):
        async with bench.awake(contender):
            await streams.measure(bench, contender, count, str(count))
    for count in (1, 10, 100, 1000):
        for figure in ("cpu", "memory"):
            value = bench.sheet.median(streams.TABLE, contender.label, f"{figure}_{count}")
            if value is not None and (figure == "cpu" or count >= 100):
                bench.sheet.add(STREAMS, f"streams {count:,}", f"{who}_{figure}", value)


async def _chats(bench: Bench, parley: Parley) -> None:
    for messages in (10, 100, 1000, 10_000):
        log(f"growth: a chat of {messages:,} messages")
        row, chat = f"messages {messages:,}", f"growth-{messages}"
        with psycopg.connect(parley.stores.database_url, autocommit=True) as connection:
            connection.execute(_CHAT, {"chat": chat, "user": USER, "model": _MODEL, "messages": messages})
            connection.execute("analyze messages")
        async with bench.awake(parley):
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


async def _sessions(bench: Bench, parley: Parley) -> None:
    there = 0
    for sessions in (10, 1000, 100_000) if bench.quick else (10, 1000, 100_000, 1_000_000):
        if sessions > 100_000 and bench.late():
            bench.sheet.note(
                "growth: the machine was busy, and there was no time to put 1,000,000 sessions in."
            )
            return
        row = f"sessions {sessions:,}"
        log(f"growth: {sessions:,} sessions")
        await asyncio.to_thread(_add_sessions, parley, f"live-{sessions}", sessions - there, 3600)
        there = sessions
        async with bench.awake(parley):
            count = bench.count(60)
            cpu = parley.cpu()
            requests = [parley.start_request(prompt, "full-20") for prompt in bench.prompts(count)]
            exchanges = await one_by_one(parley, requests)
            require(exchanges)
            bench.sheet.add(SESSIONS, row, "start", statistics.median(e.last for e in exchanges))
            bench.sheet.add(SESSIONS, row, "start_cpu", (parley.cpu() - cpu) / count)
        await asyncio.to_thread(_add_sessions, parley, f"old-{sessions}", _EXPIRED, -60)
        bench.sheet.add(SESSIONS, row, "purge", await _purge(parley))


def _add_sessions(parley: Parley, name: str, sessions: int, seconds: float) -> None:
    with psycopg.connect(parley.stores.database_url, autocommit=True) as connection:
        arguments = {"name": name, "user": USER, "sessions": sessions, "seconds": seconds}
        connection.execute(_SESSIONS, arguments)
        connection.execute("analyze sessions, chats")


async def _purge(parley: Parley) -> float:
    its = bootstrap.build(
        Settings(
            database_url=parley.stores.database_url,
            valkey_url=parley.stores.valkey_url,
            key_secret=KEY_SECRET,
            auth_mode="trusted",
        )
    )
    try:
        await its.store.check()
        begin = time.perf_counter()
        done = await purge(its.store, its.log, batch=its.settings.purge_batch, retention_days=0)
        took = time.perf_counter() - begin
        if done.sessions_deleted < _EXPIRED:
            raise BadAnswer(f"the purge deleted {done.sessions_deleted} sessions of {_EXPIRED}")
        return took
    finally:
        await its.close()
