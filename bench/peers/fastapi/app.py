"""Streaming chat as it is usually built in Python: FastAPI, sse-starlette, the SDK, Postgres and Redis.

Set up as their documentation advises for production: one client for all requests, on aiohttp; uvloop and
httptools; a pool; no access log.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import orjson
from fastapi import FastAPI, HTTPException, Response
from openai import AsyncOpenAI, DefaultAioHttpClient
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse

_CACHE_SECONDS = 3600
client = AsyncOpenAI(
    base_url=os.environ["OPENAI_BASE_URL"], api_key="key", http_client=DefaultAioHttpClient()
)
pool = AsyncConnectionPool(
    os.environ["DATABASE_URL"],
    min_size=4,
    max_size=10,
    open=False,
    kwargs={"row_factory": dict_row, "autocommit": True},
)
redis = Redis.from_url(os.environ["VALKEY_URL"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


class Start(BaseModel):
    prompt: str
    modelId: str
    userId: str


class Started(BaseModel):
    sessionId: UUID
    chatId: UUID


def event(**body: object) -> dict[str, str]:
    return {"data": orjson.dumps(body).decode()}


async def tokens(model: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
    stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
    async for chunk in stream:
        if chunk.choices and (content := chunk.choices[0].delta.content):
            yield content


@app.get("/relay")
async def relay(model: str, prompt: str) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, str]]:
        async for token in tokens(model, [{"role": "user", "content": prompt}]):
            yield event(type="token", content=token)
        yield event(type="done")

    return EventSourceResponse(events())


@app.post("/chat/start", status_code=201)
async def start(body: Start) -> Started:
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "insert into peer.chats (user_id, title) values (%s, %s) returning id",
            (body.userId, body.prompt[:80]),
        )
        chat_id = (await cursor.fetchone())["id"]
        await connection.execute(
            "insert into peer.messages (chat_id, role, content) values (%s, 'user', %s)",
            (chat_id, body.prompt),
        )
        cursor = await connection.execute(
            "insert into peer.sessions (chat_id, model_id) values (%s, %s) returning id",
            (chat_id, body.modelId),
        )
        session_id = (await cursor.fetchone())["id"]
    return Started(sessionId=session_id, chatId=chat_id)


@app.get("/chat/stream")
async def stream(sessionId: UUID) -> EventSourceResponse:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select chat_id, model_id from peer.sessions where id = %s", (sessionId,)
        )
        session = await cursor.fetchone()
        if session is None:
            raise HTTPException(404)
        cursor = await connection.execute(
            "select role, content from peer.messages where chat_id = %s order by position",
            (session["chat_id"],),
        )
        messages = await cursor.fetchall()
    key = "fastapi:" + hashlib.sha256(orjson.dumps([session["model_id"], messages])).hexdigest()

    async def events() -> AsyncIterator[dict[str, str]]:
        cached = await redis.get(key)
        if cached is not None:
            text = cached.decode()
            yield event(type="token", content=text)
        else:
            parts = []
            async for token in tokens(session["model_id"], messages):
                parts.append(token)
                yield event(type="token", content=token)
            text = "".join(parts)
            await redis.set(key, text, ex=_CACHE_SECONDS)
        async with pool.connection() as connection:
            await connection.execute(
                "insert into peer.messages (chat_id, role, content) values (%s, 'assistant', %s)",
                (session["chat_id"], text),
            )
        yield event(type="done")

    return EventSourceResponse(events())


@app.get("/chat/history")
async def history(chatId: UUID) -> Response:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select id, role, content, created_at from peer.messages where chat_id = %s"
            " order by position desc limit 50",
            (chatId,),
        )
        messages = await cursor.fetchall()
    return Response(orjson.dumps({"messages": messages[::-1]}), media_type="application/json")
