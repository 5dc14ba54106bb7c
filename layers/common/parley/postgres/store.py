"""The store in Postgres: a repeatable statement or transaction each use case, by the server's clock."""

from collections.abc import Sequence
from operator import attrgetter

from parley.domain import access
from parley.domain.access import Caller, Right, Role
from parley.domain.conversation import (
    ChatPage,
    NewSession,
    OfferedModel,
    Page,
    Reply,
    Session,
    Started,
)
from parley.domain.errors import NotFound, ParleyError, SessionExpired
from parley.domain.events import Completed, FinishReason, Spent
from parley.domain.results import Attached, Ended, LeaseStatus, Orphan, Overtaken, Saved, Stop, Stopping
from parley.domain.start import StartPlan, decide
from parley.postgres import chat_statements, purge_statements, session_statements
from parley.postgres.batch import Arguments, Query
from parley.postgres.chat_statements import ChatRow, HistoryRow, ModelRow
from parley.postgres.pool import Pool
from parley.postgres.prepared import Row
from parley.postgres.rows import reply_columns, reply_of
from parley.postgres.session_statements import SessionRow, StandingRow, StopRow
from parley.postgres.start_reads import reads, snapshot
from parley.postgres.start_writes import writes
from parley.postgres.transaction import Transaction


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
        outcome = await self._start(new_session)
        if outcome is None and self._create_users:
            await self._pool.run(chat_statements.CREATE_USER, [new_session.user_id])
            outcome = await self._start(new_session)
        if outcome is None:
            raise NotFound
        if isinstance(outcome, ParleyError):
            raise outcome
        return outcome

    async def _start(self, new_session: NewSession) -> Started | ParleyError | None:
        """Return the outcome of a start; None for a user who does not exist."""

        def write(results: list[list[Row]]) -> tuple[list[Query], Started | ParleyError | None]:
            found = snapshot(new_session, results)
            if found is None:
                return [], None
            outcome = decide(found, new_session, self._session_seconds)
            if isinstance(outcome, StartPlan):
                return writes(new_session, outcome), outcome.started
            return [], outcome

        return await self._pool.transact(Transaction(reads(new_session), write), queue=new_session.user_id)

    async def session(self, session_id: str) -> Session:
        rows = await self._pool.run(
            session_statements.SESSION,
            {"id": session_id, "owner": self._owner, "turns": session_statements.TURNS},
        )
        if not rows:
            raise NotFound
        row = SessionRow(*rows[0])
        if row.expired:
            raise SessionExpired
        access.require(Caller(Role.BEARER, row.disabled), Right.FOLLOW)
        return row.session(session_id)

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
        if await self._pool.run(session_statements.ATTACH, arguments):
            return Attached()
        return await self._standing(session_id)

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        arguments = {"id": session_id, "key": key, "lease": lease_seconds, "owner": self._owner}
        rows = await self._pool.run(session_statements.CLAIM, arguments)
        if rows:
            return int(rows[0][0])
        return await self._standing(session_id)

    async def hand_over(
        self, asker: str | None, candidates: Sequence[str], key: str, epoch: int, spent: Spent
    ) -> str | None:
        arguments = {
            "asker": asker, "candidates": list(candidates), "key": key, "epoch": epoch,
            "input": spent.input_tokens, "output": spent.output_tokens,
        }  # fmt: skip
        rows = await self._pool.run(session_statements.HAND_OVER, arguments)
        return rows[0][0] if rows else None

    async def _standing(self, session_id: str) -> Overtaken | Ended | Stopping:
        row = await self._row(session_id)
        if row.state == "ended":
            return Ended(reply_of(row))
        if row.stopping:
            return Stopping(row.disabled)
        return Overtaken(row.epoch)

    async def _row(self, session_id: str) -> StandingRow:
        rows = await self._pool.run(session_statements.STANDING, {"id": session_id, "owner": self._owner})
        if not rows:
            raise NotFound
        return StandingRow(*rows[0])

    async def renew_leases(self, epochs: dict[str, int], lease_seconds: float) -> list[LeaseStatus]:
        if not epochs:
            return []
        rows = await self._pool.run(
            session_statements.RENEW_LEASES,
            {
                "ids": list(epochs), "epochs": list(epochs.values()),
                "owner": self._owner, "lease": lease_seconds,
            },
        )  # fmt: skip
        return [LeaseStatus(*row) for row in rows]

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        arguments = {"id": session_id, "source": source} | reply_columns(reply)
        [[count]] = await self._pool.run(session_statements.FINISH, arguments)
        if count:
            return Saved()
        row = await self._row(session_id)
        return Ended(reply_of(row)) if row.state == "ended" else Overtaken(row.epoch)

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        row = await self._row(session_id)
        return row.leased, reply_of(row) if row.state == "ended" else None

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        rows = await self._pool.run(
            session_statements.REQUEST_STOP,
            {
                "id": session_id,
                "user": user_id,
                "roles": access.roles(Right.STOP),
                "even_disabled": access.is_of_the_disabled(Right.STOP),
            },
        )
        if not rows:
            raise NotFound
        row = StopRow(*rows[0])
        ended = row.state == "ended"
        # No process works for an open session yet, so no other process would end it.
        if row.state == "open":
            stopped = Reply(0, "", Completed(FinishReason.STOPPED))
            ended = not isinstance(await self.finish(session_id, stopped, "history"), Overtaken)
        return Stop(ended, row.leased, row.generation_key, row.epoch)

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        return await self._page(chat_statements.HISTORY, user_id, chat_id, limit, before=before)

    async def changes(self, user_id: str, chat_id: str, since: int, limit: int) -> Page | None:
        page = await self._page(chat_statements.CHANGES, user_id, chat_id, limit, since=since)
        return None if page.next_before is not None or since > page.revision else page

    async def history_from(self, user_id: str, chat_id: str, message_id: str, limit: int) -> Page:
        return await self._page(chat_statements.HISTORY_FROM, user_id, chat_id, limit, message=message_id)

    async def _page(
        self, statement: str, user_id: str, chat_id: str, limit: int, **wanted: int | str | None
    ) -> Page:
        # One row beyond the page shows whether there is a next page.
        arguments = wanted | {
            "chat": chat_id, "user": user_id, "limit": limit + 1,
            "roles": access.roles(Right.READ),
        }  # fmt: skip
        rows = [HistoryRow(*row) for row in await self._pool.run(statement, arguments)]
        if not rows:
            raise NotFound
        access.require(Caller(Role(rows[0].role), rows[0].disabled), Right.READ)
        messages = [message for row in rows if (message := row.message(chat_id)) is not None]
        messages.sort(key=attrgetter("position"))
        more = len(messages) > limit
        messages = messages[-limit:]
        before_next = str(messages[0].position) if more else None
        return Page(
            chat_id,
            rows[0].title,
            tuple(messages),
            before_next,
            rows[0].active_session_id,
            rows[0].revision,
        )

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        # The id too, since several chats may have the same time.
        before_at, _, before_id = (before or "").partition("_")
        arguments = {
            "user": user_id, "limit": limit + 1,
            "before_at": before_at or None, "before_id": before_id,
        }  # fmt: skip
        rows = [ChatRow(*row) for row in await self._of_user(user_id, chat_statements.CHATS, arguments)]
        access.require(Caller(Role.OWNER, rows[0].disabled), Right.LIST)
        chats = [chat for row in rows if (chat := row.summary()) is not None]
        more = len(chats) > limit
        chats = chats[:limit]
        last = f"{chats[-1].updated_at.isoformat()}_{chats[-1].chat_id}" if more else None
        return ChatPage(tuple(chats), last)

    async def models(self, user_id: str) -> tuple[OfferedModel, ...]:
        rows = [ModelRow(*row) for row in await self._of_user(user_id, chat_statements.MODELS, [user_id])]
        access.require(Caller(Role.OWNER, rows[0].disabled), Right.LIST)
        return tuple(offered for row in rows if (offered := row.offered()) is not None)

    async def _of_user(self, user_id: str, statement: str, arguments: Arguments) -> list[Row]:
        """Run a statement that returns at least one row for a known user; insert a new user if allowed.

        Raises `NotFound`.
        """
        rows = await self._pool.run(statement, arguments)
        if not rows and self._create_users:
            await self._pool.run(chat_statements.CREATE_USER, [user_id])
            rows = await self._pool.run(statement, arguments)
        if not rows:
            raise NotFound
        return rows

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        rows = await self._pool.run(purge_statements.ORPHANS, [grace_seconds, limit, self._owner])
        return [Orphan(*row) for row in rows]

    async def expire_sessions(self, limit: int) -> int:
        return await self._count(
            session_statements.EXPIRE_SESSIONS, session_statements.expiry_arguments(limit=limit)
        )

    async def purge_sessions(self, limit: int) -> int:
        return await self._count(purge_statements.PURGE_SESSIONS, [limit])

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        return await self._count(purge_statements.PURGE_CHATS, [older_than_days, limit])

    async def _count(self, statement: str, arguments: Arguments) -> int:
        [[count]] = await self._pool.run(statement, arguments)
        return int(count)

    async def check(self) -> None:
        await self._pool.run("select 1")

    async def close(self) -> None:
        await self._pool.close()
