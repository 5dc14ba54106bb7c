"""What a start reads: its locks, and the snapshot that it decides by, with their rows.

The snapshot comes after the locks, in statements of its own, because a statement that waits for a lock goes
on seeing what was committed before it began to wait. All that limits count is read by one statement: a
session that ends meanwhile counts as running or as charged, never as neither. The chat has another, since
the server plans two small statements in half the time of a large one.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from parley.domain import access
from parley.domain.access import Caller, Right, Role
from parley.domain.conversation import CatalogueEntry, NewSession, Started
from parley.domain.limits import ORPHANED_AFTER, REQUEST_WINDOW, Allowance, Bounds, Use
from parley.domain.start import ChatState, EarlierStart, ModelState, Question, StartSnapshot
from parley.postgres.access_columns import CHAT_ROLE
from parley.postgres.batch import Query
from parley.postgres.prepared import Row
from parley.postgres.rows import interval, model_of, text_of
from parley.postgres.transaction import BOUND

# One user's starts come one after the other, so that neither a double click nor a burst passes a check
# together.
LOCK_USER = f"select {BOUND} from users where id = %(user)s for no key update"  # noqa: S608
# Others may write in the chat: the end of a reply adds to its length.
LOCK_CHAT = f"""
select c.id from chats c where c.id = %(chat)s and {CHAT_ROLE} = any(%(roles)s) for no key update
"""  # noqa: S608 - made of constants
# Before the chat, in the order of a reply's end. Nobody takes up a session that this start finds expired.
LOCK_ACTIVE = f"""
select s.id from sessions s
 where s.chat_id = %(chat)s and s.state <> 'ended'
   and exists (select from chats c where c.id = s.chat_id and {CHAT_ROLE} = any(%(roles)s))
   for no key update
"""  # noqa: S608 - made of constants

ACCOUNT = f"""
select statement_timestamp() as now, u.disabled_at is not null as disabled,
       p.requests_per_minute, p.concurrent_streams, p.tokens_per_day,
       r.requests, r.oldest_request, l.streams, l.reserved,
       case when p.tokens_per_day is not null then (
           select sum(t.input_tokens + t.output_tokens)::bigint from token_usage t
            where t.user_id = u.id and t.day = (statement_timestamp() at time zone 'utc')::date)
       end as tokens,
       -- A row's version is the transaction that wrote it.
       mo.xmin::text as model_version,
       exists (select from plan_models pm where pm.plan_id = p.id and pm.model_id = mo.id) as in_plan,
       mo.max_output_tokens, mo.context_characters, length(mo.system_prompt) as system_characters,
       case when %(tells)s and mo.xmin::text is distinct from %(version)s then to_jsonb(mo) end as model,
       e.id as earlier_id, e.user_id as earlier_user, e.request_hash as earlier_hash,
       e.chat_id as earlier_chat, e.message_id as earlier_message, e.reply_id as earlier_reply,
       e.expires_at as earlier_expires_at,
       e.state = 'ended' and (select m.source from messages m where m.id = e.reply_id) = 'cache'
           as earlier_cached
  from users u
  join plans p on p.id = u.plan_id
  left join models mo on mo.id = %(model)s and mo.enabled
  left join lateral (
      -- Each half has an index; with `or`, the server would read all sessions of the user.
      select s.* from sessions s where s.id = %(session)s
      union all
      select s.* from sessions s where s.user_id = u.id and s.idempotency_key = %(key)s
      limit 1) e on true
  left join lateral (
      select count(*) as requests, min(n.created_at) as oldest_request
        from (select s.created_at from sessions s
               where p.requests_per_minute is not null
                 and s.user_id = u.id and s.created_at > statement_timestamp() - {interval(REQUEST_WINDOW)}
               order by s.created_at desc limit p.requests_per_minute) n) r on true
  left join lateral (
      select count(*) as streams, sum(s.reserved_input_tokens + s.reserved_output_tokens)::bigint as reserved
        from sessions s
       where (p.concurrent_streams is not null or p.tokens_per_day is not null)
         and s.user_id = u.id and s.state <> 'ended'
         -- A session that nobody reads any more counts no longer, well before the purge ends it.
         and case s.state
             when 'open' then s.expires_at > statement_timestamp()
             else s.lease_until > statement_timestamp() - {interval(ORPHANED_AFTER)} end) l on true
 where u.id = %(user)s
"""  # noqa: S608 - made of constants


class AccountRow(NamedTuple):
    """A row of `ACCOUNT`: a user, the plan's limits and their use, the model, an earlier start."""

    now: datetime
    disabled: bool
    requests_per_minute: int | None
    concurrent_streams: int | None
    tokens_per_day: int | None
    requests: int | None
    oldest_request: datetime | None
    streams: int | None
    reserved: int | None
    tokens: int | None
    model_version: str | None
    in_plan: bool
    max_output_tokens: int
    context_characters: int
    system_characters: int
    model: Mapping[str, Any] | None
    earlier_id: str | None
    earlier_user: str
    earlier_hash: str
    earlier_chat: str
    earlier_message: str
    earlier_reply: str
    earlier_expires_at: datetime
    earlier_cached: bool | None

    def use(self) -> Use:
        """Return what the user uses of the plan."""
        return Use(
            requests=self.requests or 0,
            oldest_request=_utc(self.oldest_request),
            streams=self.streams or 0,
            reserved=self.reserved or 0,
            tokens=self.tokens or 0,
        )

    def state(self) -> ModelState | None:
        """Return the model, if there is one of that id."""
        if self.model_version is None:
            return None
        return ModelState(
            self.model_version,
            Bounds(self.max_output_tokens, self.context_characters, self.system_characters),
            self.in_plan,
            None if self.model is None else CatalogueEntry(self.model_version, model_of(self.model)),
        )

    def earlier(self) -> EarlierStart | None:
        """Return the session that is there already."""
        if self.earlier_id is None:
            return None
        started = Started(
            self.earlier_id,
            self.earlier_chat,
            self.earlier_message,
            self.earlier_reply,
            self.earlier_expires_at.astimezone(UTC),
        )
        return EarlierStart(self.earlier_user, self.earlier_hash, started, bool(self.earlier_cached))


CHAT = f"""
select c.role, c.next_position, c.characters, c.revision,
       a.id as active, a.state = 'open' and a.expires_at <= statement_timestamp() as nobody_came,
       q.id as question_id, q.parts as question_parts,
       case when %(names)s then array(
           select m.id from messages m
            where m.chat_id = c.id and m.role = 'assistant' and m.superseded_by is null
              and m.position > (select max(n.position) from messages n
                                 where n.chat_id = c.id and n.role = 'user')
            order by m.position)
       end as latest
  from (select c.id, c.next_position, c.characters, c.revision, {CHAT_ROLE} as role
          from chats c where c.id = %(chat)s) c
  left join sessions a on a.chat_id = c.id and a.state <> 'ended'
  left join lateral (
      select m.id, m.parts from messages m
       where %(regenerate)s and m.chat_id = c.id and m.role = 'user'
       order by m.position desc limit 1) q on true
 where c.role is not null
"""  # noqa: S608 - made of constants


class ChatRow(NamedTuple):
    """A row of `CHAT`: a chat that the caller has a role in, its session, its last question."""

    role: str
    next_position: int
    characters: int
    revision: int
    active: str | None
    nobody_came: bool | None
    question_id: str | None
    question_parts: Sequence[Mapping[str, str]]
    latest: Sequence[str] | None

    def state(self, *, disabled: bool) -> ChatState:
        """Return the domain's value."""
        caller = Caller(Role(self.role), disabled)
        return ChatState(
            caller,
            self.next_position,
            self.characters,
            self.active,
            bool(self.nobody_came),
            self.revision,
            tuple(self.latest or ()),
        )

    def question(self) -> Question | None:
        """Return the last question, where it was asked for."""
        if self.question_id is None:
            return None
        return Question(self.question_id, text_of(self.question_parts))


def reads(new_session: NewSession) -> list[Query]:
    """Return what a start reads, in this order: its locks, then its snapshot."""
    user, chat = new_session.user_id, new_session.chat_id
    account: dict[str, Any] = {
        "user": user,
        "model": new_session.model_id,
        "session": new_session.new_session_id,
        "key": new_session.idempotency_key,
        "version": new_session.model_version,
        "tells": new_session.context_free,
    }
    if chat is None:
        return [(LOCK_USER, account), (ACCOUNT, account)]
    of_chat = {
        "user": user,
        "chat": chat,
        "regenerate": new_session.regenerate,
        "names": new_session.names_a_reply,
        "roles": access.roles(Right.ASK),
    }
    locks = [(LOCK_USER, account), (LOCK_ACTIVE, of_chat), (LOCK_CHAT, of_chat)]
    return [*locks, (ACCOUNT, account), (CHAT, of_chat)]


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def snapshot(new_session: NewSession, results: Sequence[Sequence[Row]]) -> StartSnapshot | None:
    """Return the snapshot of the rows of `reads`; None for a user who does not exist.

    What was not there to be locked is not there, also where a later statement sees it. Times are UTC: Python
    adds to the clock's face, which summer time changes, where a database has another time zone.
    """
    users, *_, accounts = results[:2] if new_session.chat_id is None else results[:4]
    if not users or not accounts:
        return None
    row = AccountRow(*accounts[0])
    chat = ChatRow(*results[4][0]) if new_session.chat_id and results[2] and results[4] else None
    return StartSnapshot(
        now=row.now.astimezone(UTC),
        caller=Caller(Role.OWNER, row.disabled),
        allowance=Allowance(row.requests_per_minute, row.concurrent_streams, row.tokens_per_day),
        use=row.use(),
        model=row.state(),
        earlier=row.earlier(),
        chat=None if chat is None else chat.state(disabled=row.disabled),
        question=None if chat is None else chat.question(),
    )
