"""The store in Postgres: one statement a use case, each repeatable, the server's clock for time."""

from typing import Any

from parley.adapters.connections import Connections, Row
from parley.adapters.refusals import refusal
from parley.adapters.rows import message_of, reply_columns, reply_of, session_of
from parley.conversation import ChatPage, ChatSummary, OfferedModel, Order, Page, Reply, Session, Started
from parley.errors import NotFound, SessionExpired, UserDisabled
from parley.events import Completed, FinishReason
from parley.ports import Attached, Ended, Orphan, Overtaken, Pulse, Saved, Stop, Stopping

# More turns than any context budget holds. With twice the budget's characters, which leaves room for what
# is asked again and again, it keeps a long chat's question a bounded read.
_TURNS = 400

_SESSION = """
select s.user_id, s.chat_id, s.message_id, s.reply_id, s.state, s.regenerate, s.epoch,
       coalesce(s.lease_until > clock_timestamp() and s.owner <> %(owner)s, false) as leased,
       s.generation_key,
       s.expires_at <= clock_timestamp()
           and (s.state <> 'streaming' or s.lease_until <= clock_timestamp()) as expired,
       u.disabled_at is not null as disabled,
       mo.id, mo.provider, mo.name, mo.title, mo.max_output_tokens, mo.context_characters,
       mo.system_prompt, mo.parameters,
       r.epoch, r.parts, r.finish_reason, r.provider_reason, r.error, r.input_tokens, r.output_tokens,
       case when s.state <> 'ended' then (
           select json_agg(json_build_array(t.role, t.parts) order by t.position)
             from (select m.*, sum(m.size) over (order by m.position desc) - m.size as newer
                     from (select m.role, m.parts, m.position,
                                  coalesce(length(m.parts -> 0 ->> 'text'), 0) as size
                             from messages m, messages asked
                            where asked.id = s.message_id and m.chat_id = s.chat_id
                              and m.position <= asked.position and m.superseded_by is null
                            order by m.position desc limit %(turns)s) m) t
            where t.newer <= 2 * mo.context_characters
       ) end
  from sessions s
  join users u on u.id = s.user_id
  join models mo on mo.id = s.model_id
  join messages r on r.id = s.reply_id
 where s.id = %(id)s
"""

_ATTACH = """
update sessions
   set state = 'streaming', epoch = %(epoch)s, generation_key = %(key)s,
       asked_model = asked_model or %(asks)s,
       owner = case when %(writer)s or lease_until is null or lease_until <= clock_timestamp()
                    then %(owner)s else owner end,
       lease_until = case when %(writer)s or owner = %(owner)s
                            or lease_until is null or lease_until <= clock_timestamp()
                          then clock_timestamp() + make_interval(secs => %(lease)s) else lease_until end
 where id = %(id)s and state <> 'ended' and epoch <= %(epoch)s and stop_requested_at is null
returning epoch
"""

_CLAIM = """
update sessions
   set state = 'streaming', generation_key = %(key)s, owner = %(owner)s,
       epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint),
       lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
 where id = %(id)s and state <> 'ended' and stop_requested_at is null
   and (lease_until is null or lease_until <= clock_timestamp() or owner = %(owner)s)
returning epoch
"""

_STANDING = """
select s.state, s.epoch, s.stop_requested_at is not null, u.disabled_at is not null,
       coalesce(s.lease_until > clock_timestamp() and s.owner <> %(owner)s, false),
       r.epoch, r.parts, r.finish_reason, r.provider_reason, r.error, r.input_tokens, r.output_tokens
  from sessions s join messages r on r.id = s.reply_id join users u on u.id = s.user_id
 where s.id = %(id)s
"""

_PULSE = """
with mine as (select * from unnest(%(ids)s::text[], %(epochs)s::bigint[]) as mine(id, epoch)),
renewed as (
    update sessions s
       set owner = %(owner)s, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
      from mine
     where s.id = mine.id and s.epoch = mine.epoch and s.state = 'streaming'
       and (s.owner = %(owner)s or s.lease_until <= clock_timestamp()))
select mine.id, s.epoch is distinct from mine.epoch, coalesce(s.state = 'ended', true),
       s.stop_requested_at is not null, u.disabled_at is not null
  from mine left join sessions s on s.id = mine.id left join users u on u.id = s.user_id
"""

_FINISH = """
with ended as (
    update sessions
       set state = 'ended', epoch = %(epoch)s, ended_at = clock_timestamp(), lease_until = null,
           expires_at = greatest(expires_at, clock_timestamp() + interval '5 minutes')
     where id = %(id)s and state <> 'ended' and epoch <= %(epoch)s
 returning user_id, model_id, reply_id, chat_id, asked_model, reserved_input_tokens),
replied as (
    update messages m
       set status = %(status)s, parts = %(parts)s, epoch = %(epoch)s, source = %(source)s,
           finish_reason = %(finish_reason)s, provider_reason = %(provider_reason)s, error = %(error)s,
           input_tokens = %(input_tokens)s, output_tokens = %(output_tokens)s,
           completed_at = clock_timestamp()
      from ended where m.id = ended.reply_id),
touched as (
    update chats c set updated_at = clock_timestamp(), characters = c.characters + %(characters)s
      from ended where c.id = ended.chat_id),
charged as (
    insert into token_usage as t (user_id, day, model_id, input_tokens, output_tokens)
    select user_id, (clock_timestamp() at time zone 'utc')::date, model_id,
           coalesce(%(charged_input)s::integer, reserved_input_tokens), %(charged_output)s
      from ended where asked_model
    on conflict (user_id, day, model_id) do update
       set input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens)
select count(*) from ended
"""

_REQUEST_STOP = """
update sessions
   set stop_requested_at = coalesce(stop_requested_at, clock_timestamp())
 where id = %s and (%s::text is null or user_id = %s)
returning state, coalesce(lease_until > clock_timestamp(), false), generation_key, epoch
"""

_HISTORY = """
select c.title,
       (select s.id from sessions s where s.chat_id = c.id and s.state <> 'ended'
           and (s.state = 'streaming' or s.expires_at > clock_timestamp())),
       u.disabled_at is not null,
       m.id, m.position, m.role, m.status, m.parts, m.created_at, m.completed_at, m.model_id,
       m.reply_to, m.superseded_by, m.source, m.finish_reason, m.error, m.input_tokens, m.output_tokens
  from chats c
  join users u on u.id = c.owner_id
  left join lateral (
      select * from messages m
       where m.chat_id = c.id and (%(before)s::bigint is null or m.position < %(before)s::bigint)
       order by m.position desc limit %(limit)s) m on true
 where c.id = %(chat)s and c.owner_id = %(user)s
 order by m.position desc
"""

_CHATS = """
select c.id, c.title, c.model_id, c.created_at, c.updated_at,
       (select s.id from sessions s where s.chat_id = c.id and s.state <> 'ended'
           and (s.state = 'streaming' or s.expires_at > clock_timestamp())),
       u.disabled_at is not null
  from users u
  left join lateral (
      select * from chats c
       where c.owner_id = u.id
         and (%(before_at)s::timestamptz is null
              or (c.updated_at, c.id) < (%(before_at)s::timestamptz, %(before_id)s::text))
       order by c.updated_at desc, c.id desc limit %(limit)s) c on true
 where u.id = %(user)s
 order by c.updated_at desc, c.id desc
"""

_MODELS = """
select m.id, m.title, m.provider,
       exists (select from plan_models pm where pm.plan_id = u.plan_id and pm.model_id = m.id),
       (select coalesce(array_agg(p.title order by p.title), '{}')
          from plan_models pm join plans p on p.id = pm.plan_id where pm.model_id = m.id),
       u.disabled_at is not null
  from users u left join models m on m.enabled
 where u.id = %s
 order by m.rank, m.id
"""

_CREATE_USER = """
insert into users (id, plan_id) select %s, p.id from plans p where p.is_default on conflict do nothing
"""

_ORPHANS = """
with lost as (
    select id from sessions
     where state = 'streaming' and lease_until < statement_timestamp() - make_interval(secs => %s)
     order by lease_until limit %s for update skip locked)
update sessions s
   set owner = %s, lease_until = clock_timestamp()
  from lost where s.id = lost.id
returning s.id, s.generation_key, s.epoch, s.stop_requested_at is not null
"""

_EXPIRE = """
with old as (
    select id from sessions where state = 'open' and expires_at <= statement_timestamp()
     order by expires_at limit %s for update skip locked)
select count(*) from (select expire_session(id) from old) e
"""

_PURGE_SESSIONS = """
with old as (
    select id from sessions where state = 'ended' and expires_at <= statement_timestamp()
     order by expires_at limit %s for update skip locked),
gone as (delete from sessions s using old where s.id = old.id returning 1)
select count(*) from gone
"""

_PURGE_CHATS = """
with old as (
    select c.id from chats c
     where c.updated_at < statement_timestamp() - make_interval(days => %s)
       and not exists (select from sessions s where s.chat_id = c.id and s.state <> 'ended')
     order by c.updated_at limit %s for update skip locked),
gone as (delete from chats c using old where c.id = old.id returning 1)
select count(*) from gone
"""


class PostgresStore:
    """`ports.Store` on Postgres. `owner` names this process in leases."""

    def __init__(
        self, connections: Connections, *, owner: str, session_seconds: int, create_users: bool = False
    ) -> None:
        self._connections = connections
        self._owner = owner
        self._session_seconds = session_seconds
        self._create_users = create_users

    async def start(self, order: Order) -> Started:
        [row] = await self._connections.run(
            "select * from open_session(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                order.user_id, self._create_users, order.prompt, order.model_id, order.chat_id,
                order.regenerate, order.idempotency_key, order.request_hash, order.title,
                order.new_session_id, order.new_chat_id, order.new_message_id, order.new_reply_id,
                self._session_seconds,
            ],
        )  # fmt: skip
        if row[0] != "started":
            raise refusal(row)
        return Started(*row[1:6])

    async def session(self, session_id: str) -> Session:
        rows = await self._connections.run(
            _SESSION, {"id": session_id, "owner": self._owner, "turns": _TURNS}
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
        if await self._connections.run(_ATTACH, arguments):
            return Attached()
        return await self._standing(session_id)

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        arguments = {"id": session_id, "key": key, "lease": lease_seconds, "owner": self._owner}
        rows = await self._connections.run(_CLAIM, arguments)
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
        rows = await self._connections.run(_STANDING, {"id": session_id, "owner": self._owner})
        if not rows:
            raise NotFound
        return rows[0]

    async def pulse(self, epochs: dict[str, int], lease_seconds: float) -> list[Pulse]:
        if not epochs:
            return []
        rows = await self._connections.run(
            _PULSE,
            {
                "ids": list(epochs), "epochs": list(epochs.values()),
                "owner": self._owner, "lease": lease_seconds,
            },
        )  # fmt: skip
        return [Pulse(*row) for row in rows]

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        [[count]] = await self._connections.run(
            _FINISH, {"id": session_id, "source": source} | reply_columns(reply)
        )
        if count:
            return Saved()
        row = await self._row(session_id)
        return Ended(reply_of(row[5:])) if row[0] == "ended" else Overtaken(row[1])

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        row = await self._row(session_id)
        return row[4], reply_of(row[5:]) if row[0] == "ended" else None

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        rows = await self._connections.run(_REQUEST_STOP, [session_id, user_id, user_id])
        if not rows:
            raise NotFound
        state, leased, key, epoch = rows[0]
        if state == "open":
            stopped = Reply(0, "", Completed(FinishReason.STOPPED))
            ended = not isinstance(await self.finish(session_id, stopped, "history"), Overtaken)
            return Stop(ended, leased, key, epoch)
        return Stop(state == "ended", leased, key, epoch)

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        rows = await self._connections.run(
            _HISTORY, {"chat": chat_id, "user": user_id, "before": before, "limit": limit + 1}
        )
        if not rows:
            raise NotFound
        title, active, disabled = rows[0][:3]
        if disabled:
            raise UserDisabled
        messages = [message_of(chat_id, row[3:]) for row in rows if row[3] is not None]
        more = len(messages) > limit
        messages = messages[:limit]
        return Page(
            chat_id,
            title,
            tuple(reversed(messages)),
            str(messages[-1].position) if more else None,
            active,
        )

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        before_at, _, before_id = (before or "").partition("_")
        rows = await self._of_user(
            user_id,
            _CHATS,
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
        rows = await self._of_user(user_id, _MODELS, [user_id])
        self._require_user(rows, 5)
        return tuple(
            OfferedModel(row[0], row[1], row[2], row[3], tuple(row[4])) for row in rows if row[0] is not None
        )

    async def _of_user(self, user_id: str, statement: str, arguments: Any) -> list[Row]:
        """Run a statement that has a row for every user; who is new and verified becomes one."""
        rows = await self._connections.run(statement, arguments)
        if not rows and self._create_users:
            await self._connections.run(_CREATE_USER, [user_id])
            rows = await self._connections.run(statement, arguments)
        return rows

    def _require_user(self, rows: list[Row], disabled_column: int) -> None:
        if not rows:
            raise NotFound
        if rows[0][disabled_column]:
            raise UserDisabled

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        rows = await self._connections.run(_ORPHANS, [grace_seconds, limit, self._owner])
        return [Orphan(*row) for row in rows]

    async def expire_sessions(self, limit: int) -> int:
        return await self._count(_EXPIRE, limit)

    async def purge_sessions(self, limit: int) -> int:
        return await self._count(_PURGE_SESSIONS, limit)

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        return await self._count(_PURGE_CHATS, older_than_days, limit)

    async def _count(self, statement: str, *arguments: Any) -> int:
        [[count]] = await self._connections.run(statement, arguments)
        return int(count)

    async def check(self) -> None:
        await self._connections.run("select 1")

    async def close(self) -> None:
        await self._connections.close()
