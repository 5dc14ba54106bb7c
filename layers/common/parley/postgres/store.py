"""The store in Postgres: one repeatable statement for each use case, timed by the server's clock."""

from operator import attrgetter
from typing import Any

from parley.domain.conversation import (
    ChatPage,
    ChatSummary,
    NewSession,
    OfferedModel,
    Page,
    Reply,
    Session,
    Started,
)
from parley.domain.errors import NotFound, SessionExpired, UserDisabled
from parley.domain.events import Completed, FinishReason
from parley.domain.results import Attached, Ended, LeaseStatus, Orphan, Overtaken, Saved, Stop, Stopping
from parley.postgres import statements
from parley.postgres.errors import error_of
from parley.postgres.pool import Pool
from parley.postgres.prepared import Row
from parley.postgres.rows import answer_column, message_of, reply_columns, reply_of, session_of, started_of


class PostgresStore:
    """`ports.Store` on Postgres.

    `owner` names this process in leases. A session expires after `session_seconds`. With `create_users`, a
    user whom the token verified but the database does not know is inserted on the default plan.
    """

    def __init__(self, pool: Pool, *, owner: str, session_seconds: int, create_users: bool = False) -> None:
        self._pool = pool
        self._owner = owner
        self._session_seconds = session_seconds
        self._create_users = create_users

    async def start(self, new_session: NewSession) -> Started:
        [row] = await self._pool.run(
            "select * from begin_session("
            "%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                new_session.user_id, self._create_users, new_session.prompt, new_session.model_id,
                new_session.chat_id, new_session.regenerate, new_session.idempotency_key,
                new_session.request_hash, new_session.title, new_session.new_session_id,
                new_session.new_chat_id, new_session.new_message_id, new_session.new_reply_id,
                self._session_seconds, new_session.model_version, answer_column(new_session.answer),
            ],
        )  # fmt: skip
        if row[0] != "started":
            raise error_of(row)
        return started_of(row)

    async def session(self, session_id: str) -> Session:
        rows = await self._pool.run(
            statements.SESSION, {"id": session_id, "owner": self._owner, "turns": statements.TURNS}
        )
        if not rows:
            raise NotFound
        session, expired, disabled = session_of(session_id, rows[0])
        if expired:
            raise SessionExpired
        if disabled:
            raise UserDisabled
        return session

    async def attach(
        self,
        session_id: str,
        key: str,
        epoch: int,
        lease_seconds: float,
        *,
        writer: bool,
        asks: bool = False,
    ) -> Attached | Overtaken | Ended | Stopping:
        arguments = {
            "id": session_id, "key": key, "epoch": epoch, "lease": lease_seconds,
            "owner": self._owner, "writer": writer, "asks": asks,
        }  # fmt: skip
        if await self._pool.run(statements.ATTACH, arguments):
            return Attached()
        return await self._standing(session_id)

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        arguments = {"id": session_id, "key": key, "lease": lease_seconds, "owner": self._owner}
        rows = await self._pool.run(statements.CLAIM, arguments)
        if rows:
            return int(rows[0][0])
        return await self._standing(session_id)

    async def _standing(self, session_id: str) -> Overtaken | Ended | Stopping:
        row = await self._row(session_id)
        state, epoch, stopping, disabled = row[:4]
        if state == "ended":
            return Ended(reply_of(row[5:]))
        if stopping:
            return Stopping(disabled)
        return Overtaken(epoch)

    async def _row(self, session_id: str) -> Row:
        rows = await self._pool.run(statements.STANDING, {"id": session_id, "owner": self._owner})
        if not rows:
            raise NotFound
        return rows[0]

    async def renew_leases(self, epochs: dict[str, int], lease_seconds: float) -> list[LeaseStatus]:
        if not epochs:
            return []
        rows = await self._pool.run(
            statements.RENEW_LEASES,
            {
                "ids": list(epochs), "epochs": list(epochs.values()),
                "owner": self._owner, "lease": lease_seconds,
            },
        )  # fmt: skip
        return [LeaseStatus(*row) for row in rows]

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        [[count]] = await self._pool.run(
            statements.FINISH, {"id": session_id, "source": source} | reply_columns(reply)
        )
        if count:
            return Saved()
        row = await self._row(session_id)
        return Ended(reply_of(row[5:])) if row[0] == "ended" else Overtaken(row[1])

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        row = await self._row(session_id)
        return row[4], reply_of(row[5:]) if row[0] == "ended" else None

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        rows = await self._pool.run(statements.REQUEST_STOP, [session_id, user_id, user_id])
        if not rows:
            raise NotFound
        state, leased, key, epoch = rows[0]
        # No process works for an open session yet, so no other process would end it.
        if state == "open":
            stopped = Reply(0, "", Completed(FinishReason.STOPPED))
            ended = not isinstance(await self.finish(session_id, stopped, "history"), Overtaken)
            return Stop(ended, leased, key, epoch)
        return Stop(state == "ended", leased, key, epoch)

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        # One row beyond the page shows whether there is a next page.
        rows = await self._pool.run(
            statements.HISTORY, {"chat": chat_id, "user": user_id, "before": before, "limit": limit + 1}
        )
        if not rows:
            raise NotFound
        title, active, disabled = rows[0][:3]
        if disabled:
            raise UserDisabled
        messages = [message_of(chat_id, row[3:]) for row in rows if row[3] is not None]
        messages.sort(key=attrgetter("position"))
        more = len(messages) > limit
        messages = messages[-limit:]
        return Page(chat_id, title, tuple(messages), str(messages[0].position) if more else None, active)

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        # The id too, since several chats may have the same time.
        before_at, _, before_id = (before or "").partition("_")
        rows = await self._of_user(
            user_id,
            statements.CHATS,
            {
                "user": user_id, "limit": limit + 1,
                "before_at": before_at or None, "before_id": before_id,
            },
        )  # fmt: skip
        self._require_user(rows, 6)
        chats = [ChatSummary(*row[:6]) for row in rows if row[0] is not None]
        more = len(chats) > limit
        chats = chats[:limit]
        last = f"{chats[-1].updated_at.isoformat()}_{chats[-1].chat_id}" if more else None
        return ChatPage(tuple(chats), last)

    async def models(self, user_id: str) -> tuple[OfferedModel, ...]:
        rows = await self._of_user(user_id, statements.MODELS, [user_id])
        self._require_user(rows, 5)
        return tuple(
            OfferedModel(row[0], row[1], row[2], row[3], tuple(row[4])) for row in rows if row[0] is not None
        )

    async def _of_user(self, user_id: str, statement: str, arguments: Any) -> list[Row]:
        """Run a statement that returns at least one row for a known user; insert a new user if allowed."""
        rows = await self._pool.run(statement, arguments)
        if not rows and self._create_users:
            await self._pool.run(statements.CREATE_USER, [user_id])
            rows = await self._pool.run(statement, arguments)
        return rows

    def _require_user(self, rows: list[Row], disabled_column: int) -> None:
        if not rows:
            raise NotFound
        if rows[0][disabled_column]:
            raise UserDisabled

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        rows = await self._pool.run(statements.ORPHANS, [grace_seconds, limit, self._owner])
        return [Orphan(*row) for row in rows]

    async def expire_sessions(self, limit: int) -> int:
        return await self._count(statements.EXPIRE, limit)

    async def purge_sessions(self, limit: int) -> int:
        return await self._count(statements.PURGE_SESSIONS, limit)

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        return await self._count(statements.PURGE_CHATS, older_than_days, limit)

    async def _count(self, statement: str, *arguments: Any) -> int:
        [[count]] = await self._pool.run(statement, arguments)
        return int(count)

    async def check(self) -> None:
        await self._pool.run("select 1")

    async def close(self) -> None:
        await self._pool.close()
