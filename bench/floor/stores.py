"""The floor of the whole path: one statement in Postgres, one command to Valkey, one write to the reader.

It keeps the same rows as Parley, in Parley's tables, and nothing that makes them safe: no claim, no lease,
no log. A reply is saved after its reader has it, or, where that is asked for, before its stream says that it
is done.
"""

import argparse
import asyncio
import itertools
import os
import secrets
from collections import deque
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

import hiredis
import msgspec
import psycopg
from psycopg import AsyncConnection

from bench.floor.http_server import DONE, STREAM_HEAD, HttpServer, json_answer, token
from bench.floor.upstream_client import UpstreamClient
from local.loop import new_event_loop

_CONNECTIONS = 4
_CACHE_SECONDS = b"3600"
_START = """
with chat as (insert into chats (id, owner_id, title, model_id, next_position)
              values (%(chat)s, %(user)s, %(title)s, %(model)s, 3)),
asked as (insert into messages (id, chat_id, position, role, status, parts, completed_at)
          values (%(asked)s, %(chat)s, 1, 'user', 'complete',
                  jsonb_build_array(jsonb_build_object('type', 'text', 'text', %(prompt)s::text)), now())),
reply as (insert into messages (id, chat_id, position, role, status, model_id, reply_to)
          values (%(reply)s, %(chat)s, 2, 'assistant', 'pending', %(model)s, %(asked)s))
insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate, request_hash,
                      expires_at)
values (%(session)s, %(user)s, %(chat)s, %(asked)s, %(reply)s, %(model)s, false, '',
        now() + interval '10 minutes')
"""
_SESSION = """
select s.model_id, s.reply_id, m.parts -> 0 ->> 'text'
  from sessions s join messages m on m.id = s.message_id where s.id = %s
"""
_FINISH = """
with ended as (update sessions set state = 'ended', ended_at = now() where id = %(session)s)
update messages set status = 'complete', completed_at = now(),
       parts = jsonb_build_array(jsonb_build_object('type', 'text', 'text', %(text)s::text))
 where id = %(reply)s
"""
_HISTORY = """
select id, position, role, status, parts, created_at, completed_at, model_id, reply_to, source, finish_reason
  from messages where chat_id = %s order by position desc limit 50
"""


class Valkey(asyncio.Protocol):
    """A connection to Valkey that pipelines."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def call(self, *words: bytes) -> "asyncio.Future[Any]":
        """Send a command."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._transport.write(hiredis.pack_command(tuple[Any, ...](words)))
        return answer

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(answer)


class Floor:
    """The stores, the model, and what is under way."""

    def __init__(
        self, upstream: UpstreamClient, valkey: Valkey, connections: list[AsyncConnection[Any]]
    ) -> None:
        self.upstream = upstream
        self.valkey = valkey
        self._connections = itertools.cycle(connections)
        self.running: dict[bytes, tuple[list[str], list[asyncio.Transport]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self, statement: str, arguments: Any) -> list[Any]:
        """Run one prepared statement."""
        cursor = await next(self._connections).execute(statement.encode(), arguments, prepare=True)
        return await cursor.fetchall() if cursor.description else []

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Server(HttpServer):
    """One client of the floor."""

    def __init__(self, floor: Floor) -> None:
        super().__init__()
        self._floor = floor

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path == "/chat/start":
            work = self._start(msgspec.json.decode(body))
        elif path == "/chat/stream":
            work = self._stream(
                query["sessionId"], int(query.get("cursor", "0")), query.get("saved") == "first"
            )
        else:
            work = self._history(query["chatId"])
        self._floor.spawn(work)

    async def _start(self, body: dict[str, str]) -> None:
        ids = {name: secrets.token_urlsafe(16) for name in ("chat", "asked", "reply", "session")}
        prompt = body["prompt"]
        row = {"user": body["userId"], "model": body["modelId"], "prompt": prompt, "title": prompt[:80]}
        await self._floor.run(_START, ids | row)
        answer = msgspec.json.encode({"sessionId": ids["session"], "chatId": ids["chat"]})
        self.transport.write(json_answer(answer, b"201 Created"))

    async def _history(self, chat_id: str) -> None:
        rows = await self._floor.run(_HISTORY, [chat_id])
        self.transport.write(json_answer(msgspec.json.encode({"messages": rows[::-1]})))

    async def _stream(self, session_id: str, position: int, saved_first: bool) -> None:
        floor = self._floor
        [(model, reply_id, prompt)] = await floor.run(_SESSION, [session_id])
        key = f"floor:{model}:{prompt}".encode()
        text = await floor.valkey.call(b"GET", key)
        if text is not None:
            whole = text.decode()
            shown = STREAM_HEAD + token(whole[position:])
            self.transport.write(shown if saved_first else shown + DONE)
            await floor.run(_FINISH, {"session": session_id, "reply": reply_id, "text": whole})
            if saved_first:
                self.transport.write(DONE)
            return
        self.transport.write(STREAM_HEAD)
        joined = floor.running.get(key)
        if joined is not None:
            parts, readers = joined
            if parts:
                self.transport.write(token("".join(parts)))
            readers.append(self.transport)
        else:
            parts, readers = floor.running[key] = ([], [self.transport])
            over = asyncio.Event()

            def take(text: str) -> None:
                parts.append(text)
                frame = token(text)
                for reader in readers:
                    reader.write(frame)

            await floor.upstream.ask(model, prompt, take, over.set)
            await over.wait()
            del floor.running[key]
            for reader in readers:
                reader.write(DONE)
            await floor.valkey.call(b"SET", key, "".join(parts).encode(), b"EX", _CACHE_SECONDS)
        await floor.run(_FINISH, {"session": session_id, "reply": reply_id, "text": "".join(parts)})


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    address = urlsplit(os.environ["VALKEY_URL"])
    _, valkey = await loop.create_connection(Valkey, address.hostname or "", address.port or 0)
    await valkey.call(b"AUTH", (address.password or "").encode())
    connections = [
        await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True)
        for _ in range(_CONNECTIONS)
    ]
    floor = Floor(UpstreamClient(os.environ["OPENAI_BASE_URL"]), valkey, connections)
    server = await loop.create_server(lambda: Server(floor), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().port))
