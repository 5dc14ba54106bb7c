"""The statements that read a chat's messages, and a user's chats and models, with their rows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from parley.domain.conversation import ChatSummary, Message, OfferedModel, Role
from parley.domain.events import Status
from parley.postgres.access_columns import CHAT_ROLE
from parley.postgres.rows import text_of, usage_of

# Dictionaries, since calling an enumeration's class takes ten times as long.
_AUTHORS = {role.value: role for role in Role}
_STATUSES = {status.value: status for status in Status}

# A join for the open session, since a subquery would run once for each message. There is no outer `order by`:
# the caller sorts the rows.
_HISTORY = f"""
select c.title, c.revision, s.id as active_session_id, c.role, u.disabled_at is not null as disabled,
       m.id, m.position, m.role as author, m.status, m.parts, m.created_at, m.completed_at, m.model_id,
       m.reply_to, m.superseded_by, m.source, m.finish_reason, m.error, m.input_tokens, m.output_tokens
  from (select c.id, c.title, c.revision, {CHAT_ROLE} as role from chats c where c.id = %(chat)s) c
  join users u on u.id = %(user)s
  left join sessions s on s.chat_id = c.id and s.state <> 'ended'
   and (s.state = 'streaming' or s.expires_at > clock_timestamp())
  left join lateral (
      select * from messages m
       where m.chat_id = c.id and {{wanted}}
       order by m.position desc limit %(limit)s) m on true
 where c.role = any(%(roles)s)
"""  # noqa: S608 - made of constants

HISTORY = _HISTORY.format(wanted="m.position < coalesce(%(before)s::bigint, 9223372036854775807)")
CHANGES = _HISTORY.format(wanted="m.revision > %(since)s")
HISTORY_FROM = _HISTORY.format(
    # From its question on: a later reply may have taken the place of an earlier one beside it.
    wanted="""m.position >= coalesce(
           (select coalesce(q.position, k.position)
              from messages k left join messages q on q.id = k.reply_to
             where k.id = %(message)s and k.chat_id = c.id), 0)"""
)


class HistoryRow(NamedTuple):
    """A row of `HISTORY`, `CHANGES` and `HISTORY_FROM`. Without messages there is one whose `id` is None."""

    title: str
    revision: int
    active_session_id: str | None
    role: str
    disabled: bool
    id: str | None
    position: int
    author: str
    status: str
    parts: Sequence[Mapping[str, str]]
    created_at: datetime
    completed_at: datetime | None
    model_id: str | None
    reply_to: str | None
    superseded_by: str | None
    source: str | None
    finish_reason: str | None
    error: Mapping[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None

    def message(self, chat_id: str) -> Message | None:
        """Return the domain's value; None for a page without messages."""
        if self.id is None:
            return None
        return Message(
            id=self.id,
            chat_id=chat_id,
            position=self.position,
            role=_AUTHORS[self.author],
            status=_STATUSES[self.status],
            text=text_of(self.parts),
            created_at=self.created_at,
            completed_at=self.completed_at,
            model_id=self.model_id,
            reply_to=self.reply_to,
            superseded_by=self.superseded_by,
            source=self.source,
            finish_reason=self.finish_reason,
            error_code=self.error["code"] if self.error else None,
            usage=usage_of(self.input_tokens, self.output_tokens),
        )


CHATS = """
select c.id, c.title, c.model_id, c.created_at, c.updated_at,
       (select s.id from sessions s where s.chat_id = c.id and s.state <> 'ended'
           and (s.state = 'streaming' or s.expires_at > clock_timestamp())) as active_session_id,
       u.disabled_at is not null as disabled
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


class ChatRow(NamedTuple):
    """A row of `CHATS`. A page without chats is a row whose `id` is None."""

    id: str | None
    title: str
    model_id: str | None
    created_at: datetime
    updated_at: datetime
    active_session_id: str | None
    disabled: bool

    def summary(self) -> ChatSummary | None:
        """Return the domain's value; None for a page without chats."""
        if self.id is None:
            return None
        return ChatSummary(
            self.id, self.title, self.model_id, self.created_at, self.updated_at, self.active_session_id
        )


MODELS = """
select m.id, m.title, m.provider,
       exists (select from plan_models pm where pm.plan_id = u.plan_id and pm.model_id = m.id) as in_plan,
       (select coalesce(array_agg(p.title order by p.title), '{}')
          from plan_models pm join plans p on p.id = pm.plan_id where pm.model_id = m.id) as plans,
       u.disabled_at is not null as disabled
  from users u left join models m on m.enabled
 where u.id = %s
 order by m.rank, m.id
"""


class ModelRow(NamedTuple):
    """A row of `MODELS`. An empty catalogue is a row whose `id` is None."""

    id: str | None
    title: str
    provider: str
    in_plan: bool
    plans: Sequence[str]
    disabled: bool

    def offered(self) -> OfferedModel | None:
        """Return the domain's value; None for an empty catalogue."""
        if self.id is None:
            return None
        return OfferedModel(self.id, self.title, self.provider, self.in_plan, tuple(self.plans))


CREATE_USER = """
insert into users (id, plan_id) select %s, p.id from plans p where p.is_default on conflict do nothing
"""
