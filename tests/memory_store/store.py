"""The store in this process's memory: what every other store must equal, and quick to test with."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from parley.domain import access
from parley.domain.access import Caller, Right, Role
from parley.domain.conversation import (
    ChatPage,
    ChatSummary,
    NewSession,
    OfferedModel,
    Page,
    Reply,
    Session,
    SessionState,
    Started,
    Turn,
)
from parley.domain.errors import NotFound, SessionExpired
from parley.domain.events import Completed, FinishReason, Spent, Status
from parley.domain.limits import charged
from parley.domain.results import Attached, Ended, LeaseStatus, Orphan, Overtaken, Saved, Stop, Stopping
from tests.memory_store.start import start
from tests.memory_store.tables import ChatRow, MemoryDatabase, MessageRow, SessionRow, UserRow


class MemoryStore:
    """`ports.Store` without a server. `owner` names this process in leases."""

    def __init__(
        self, database: MemoryDatabase, *, owner: str, session_seconds: float, create_users: bool = False
    ) -> None:
        self._database = database
        self._owner = owner
        self._session_seconds = session_seconds
        self._create_users = create_users

    def _now(self) -> datetime:
        return self._database.clock()

    def _create(self, user_id: str) -> None:
        if self._create_users and self._database.default_plan is not None:
            self._database.users.setdefault(user_id, UserRow(self._database.default_plan))

    async def start(self, new_session: NewSession) -> Started:
        self._create(new_session.user_id)
        return start(self._database, new_session, session_seconds=self._session_seconds)

    async def session(self, session_id: str) -> Session:
        row, now = self._row(session_id), self._now()
        abandoned = row.state is not SessionState.STREAMING or not row.leased(now)
        if row.expires_at <= now and abandoned:
            raise SessionExpired
        access.require(self._database.caller(row.user_id, Role.BEARER), Right.FOLLOW)
        ended = row.state is SessionState.ENDED
        return Session(
            id=row.id,
            user_id=row.user_id,
            chat_id=row.chat_id,
            message_id=row.message_id,
            reply_id=row.reply_id,
            state=row.state,
            regenerate=row.regenerate,
            epoch=row.epoch,
            leased=row.leased(now, self._owner),
            model=self._database.models[row.model_id].model,
            turns=() if ended else self._turns(row),
            generation_key=row.generation_key,
            reply=self._database.messages[row.reply_id].reply if ended else None,
            source=self._database.messages[row.reply_id].source,
        )

    def _row(self, session_id: str) -> SessionRow:
        row = self._database.sessions.get(session_id)
        if row is None:
            raise NotFound
        return row

    def _turns(self, row: SessionRow) -> tuple[Turn, ...]:
        last = self._database.messages[row.message_id].position
        shown = [
            message
            for message in self._database.messages_of(row.chat_id)
            if message.position <= last
            and message.superseded_by is None
            and message.reply_to != row.message_id
        ]
        return tuple(
            # What a provider refused is not sent again, nor is its question.
            Turn(
                message.role,
                "" if message.message().status is Status.FILTERED else message.text,
                message.id,
                above,
            )
            for above, message in enumerate(shown)
        )

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
        row, now = self._row(session_id), self._now()
        if row.state is SessionState.ENDED or row.stop_requested or row.epoch > epoch:
            return self._standing(row)
        if row.epoch != epoch:
            self._forget_asking(row)
        row.state, row.epoch, row.generation_key = SessionState.STREAMING, epoch, key
        row.asked_model = row.asked_model or asks
        if writer or not row.leased(now, besides=self._owner):
            self._lease(row, lease_seconds, now)
        return Attached()

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        row, now = self._row(session_id), self._now()
        if row.state is SessionState.ENDED or row.stop_requested or row.leased(now, besides=self._owner):
            return self._standing(row)
        self._forget_asking(row)
        row.state, row.generation_key = SessionState.STREAMING, key
        row.epoch = max(row.epoch + 1, int(now.timestamp() * 1000))
        self._lease(row, lease_seconds, now)
        return row.epoch

    def _forget_asking(self, row: SessionRow) -> None:
        """Have a session that goes to a later epoch owe what it owes, and be no asker any more."""
        row.asked_model = False
        row.prepaid = (min(row.prepaid[0], 0), min(row.prepaid[1], 0))

    async def hand_over(
        self, asker: str | None, candidates: Sequence[str], key: str, epoch: int, spent: Spent
    ) -> str | None:
        sessions, now = self._database.sessions, self._now()
        former = sessions.get(asker or "")
        standing = [
            row
            for row in map(sessions.get, candidates)
            if row is not None
            and (row.state, row.generation_key, row.epoch) == (SessionState.STREAMING, key, epoch)
            and not row.stop_requested
            and not self._database.users[row.user_id].disabled
        ]
        if not standing:
            return None
        chosen = min(
            standing,
            key=lambda row: (
                not (row.asked_model and row is not former),
                not row.leased(now),
                row is not former,
                row.id,
            ),
        )
        if not chosen.asked_model:
            self._charge_together(former, chosen, spent)
        return chosen.id

    def _charge_together(self, former: SessionRow | None, chosen: SessionRow, spent: Spent) -> None:
        set_aside = (former or chosen).reserved[0]
        paid = (set_aside if spent.input_tokens is None else spent.input_tokens, spent.output_tokens)
        if former is not None:
            ended, before = former.state is SessionState.ENDED, former.prepaid
            if ended and former.asked_model and former.charged is not None:
                paid = (before[0] + former.charged[0], before[1] + former.charged[1])
            else:
                paid = (max(paid[0], before[0]), max(paid[1], before[1]))
            if former.asked_model and not ended:
                former.asked_model = False
                former.prepaid = (min(before[0] - paid[0], 0), min(before[1] - paid[1], 0))
        chosen.asked_model = True
        chosen.prepaid = (chosen.prepaid[0] + paid[0], chosen.prepaid[1] + paid[1])

    def _lease(self, row: SessionRow, seconds: float, now: datetime) -> None:
        row.owner, row.lease_until = self._owner, now + timedelta(seconds=seconds)

    def _standing(self, row: SessionRow) -> Overtaken | Ended | Stopping:
        if row.state is SessionState.ENDED:
            return Ended(self._database.messages[row.reply_id].reply)
        if row.stop_requested:
            return Stopping(self._database.users[row.user_id].disabled)
        return Overtaken(row.epoch)

    async def renew_leases(self, epochs: dict[str, int], lease_seconds: float) -> list[LeaseStatus]:
        return [self._pulse(session_id, epoch, lease_seconds) for session_id, epoch in epochs.items()]

    def _pulse(self, session_id: str, epoch: int, lease_seconds: float) -> LeaseStatus:
        row, now = self._database.sessions.get(session_id), self._now()
        if row is None:
            return LeaseStatus(session_id, overtaken=True, ended=True, stopping=False, disabled=False)
        streaming = row.state is SessionState.STREAMING
        if streaming and row.epoch == epoch and not row.leased(now, besides=self._owner):
            self._lease(row, lease_seconds, now)
        return LeaseStatus(
            session_id,
            overtaken=row.epoch != epoch,
            ended=row.state is SessionState.ENDED,
            stopping=row.stop_requested,
            disabled=self._database.users[row.user_id].disabled,
        )

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        row = self._row(session_id)
        if row.state is SessionState.ENDED:
            return Ended(self._database.messages[row.reply_id].reply)
        if row.epoch > reply.epoch:
            return Overtaken(row.epoch)
        tokens = (0, 0)
        if row.asked_model and row.epoch == reply.epoch:
            given, returned = charged(reply)
            tokens = (row.reserved[0] if given is None else given, returned)
        self._database.end(row, reply, source)
        self._database.charge(row, tokens)
        return Saved()

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        row = self._row(session_id)
        ended = row.state is SessionState.ENDED
        reply = self._database.messages[row.reply_id].reply if ended else None
        return row.leased(self._now(), besides=self._owner), reply

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        row = self._row(session_id)
        caller = Caller(Role.BEARER)
        if user_id is not None:
            caller = self._database.caller(user_id, Role.OWNER if user_id == row.user_id else None)
        access.require(caller, Right.STOP)
        row.stop_requested = True
        if row.state is SessionState.OPEN:
            await self.finish(session_id, Reply(0, "", Completed(FinishReason.STOPPED)), "history")
        ended = row.state is SessionState.ENDED
        return Stop(ended, row.leased(self._now()), row.generation_key, row.epoch)

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        chat, rows = self._messages(user_id, chat_id)
        return self._page(chat, [row for row in rows if before is None or row.position < before], limit)

    async def changes(self, user_id: str, chat_id: str, since: int, limit: int) -> Page | None:
        chat, rows = self._messages(user_id, chat_id)
        rows = [row for row in rows if row.revision > since]
        return None if len(rows) > limit or since > chat.revision else self._page(chat, rows, limit)

    async def history_from(self, user_id: str, chat_id: str, message_id: str, limit: int) -> Page:
        chat, rows = self._messages(user_id, chat_id)
        known = next((row.reply_to or row.id for row in rows if row.id == message_id), None)
        first = next((row.position for row in rows if row.id == known), 0)
        return self._page(chat, [row for row in rows if row.position >= first], limit)

    def _messages(self, user_id: str, chat_id: str) -> tuple[ChatRow, list[MessageRow]]:
        chat = self._database.chats.get(chat_id)
        role = Role.OWNER if chat is not None and chat.owner_id == user_id else None
        access.require(self._database.caller(user_id, role), Right.READ)
        assert chat is not None
        return chat, self._database.messages_of(chat_id)

    def _page(self, chat: ChatRow, rows: list[MessageRow], limit: int) -> Page:
        shown, chat_id = rows[-limit:], chat.id
        return Page(
            chat_id,
            chat.title,
            tuple(row.message() for row in shown),
            str(shown[0].position) if len(rows) > limit else None,
            self._database.active(chat_id),
            chat.revision,
        )

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        self._create(user_id)
        access.require(self._database.caller(user_id, Role.OWNER), Right.LIST)
        rows = [row for row in self._database.chats.values() if row.owner_id == user_id]
        rows.sort(key=lambda row: (row.updated_at, row.id), reverse=True)
        if before is not None:
            at, _, chat_id = before.partition("_")
            last = (datetime.fromisoformat(at), chat_id)
            rows = [row for row in rows if (row.updated_at, row.id) < last]
        shown = rows[:limit]
        more = len(rows) > limit
        return ChatPage(
            tuple(self._summary(row) for row in shown),
            f"{shown[-1].updated_at.isoformat()}_{shown[-1].id}" if more else None,
        )

    def _summary(self, row: ChatRow) -> ChatSummary:
        active = self._database.active(row.id)
        return ChatSummary(row.id, row.title, row.model_id, row.created_at, row.updated_at, active)

    async def models(self, user_id: str) -> tuple[OfferedModel, ...]:
        self._create(user_id)
        access.require(self._database.caller(user_id, Role.OWNER), Right.LIST)
        plan, plans = self._database.users[user_id].plan, self._database.plans
        return tuple(
            OfferedModel(
                row.model.id,
                row.model.title,
                row.model.provider,
                plan in row.plans,
                tuple(sorted(plans[plan_id].title for plan_id in row.plans)),
            )
            for row in self._database.models.values()
            if row.enabled
        )

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        now = self._now()
        since = now - timedelta(seconds=grace_seconds)
        lost = [
            (row.lease_until, row)
            for row in self._database.unended()
            if row.lease_until is not None and row.lease_until < since
        ]
        lost.sort(key=lambda pair: pair[0])
        for _, row in lost[:limit]:
            row.owner, row.lease_until = self._owner, now
        return [Orphan(row.id, row.generation_key, row.epoch, row.stop_requested) for _, row in lost[:limit]]

    async def expire_sessions(self, limit: int) -> int:
        now = self._now()
        old = [row for row in self._database.unended() if row.expires_at <= now]
        old = [row for row in old if row.state is SessionState.OPEN][:limit]
        for row in old:
            self._database.expire(row)
        return len(old)

    async def purge_sessions(self, limit: int) -> int:
        sessions, now = self._database.sessions, self._now()
        old = [row for row in sessions.values() if row.state is SessionState.ENDED and row.expires_at <= now]
        for row in old[:limit]:
            del sessions[row.id]
        return len(old[:limit])

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        since = self._now() - timedelta(days=older_than_days)
        old = [
            chat.id
            for chat in self._database.chats.values()
            if chat.updated_at < since and self._database.answering(chat.id) is None
        ][:limit]
        for chat_id in old:
            self._database.delete_chat(chat_id)
        return len(old)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return
