"""The statements of sessions: reading, leases, ends. Each is safe to repeat, and has its row beside it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from parley.domain.conversation import Role, Session, SessionState, Turn
from parley.domain.limits import KEPT_AFTER_END
from parley.domain.start import NOBODY_CAME
from parley.postgres.access_columns import SESSION_ROLE
from parley.postgres.rows import end_columns, interval, model_of, reply_of, text_of

# Dictionaries, since calling an enumeration's class takes ten times as long.
_ROLES = {role.value: role for role in Role}
_STATES = {state.value: state for state in SessionState}

# The most messages that a session's statement reads. No context budget holds more. This bound and the bound
# of twice the budget's characters keep the read of a long chat small; twice, since prompts may repeat.
TURNS = 400

SESSION = """
select s.user_id, s.chat_id, s.message_id, s.reply_id, s.state, s.regenerate, s.epoch,
       coalesce(s.lease_until > clock_timestamp() and s.owner <> %(owner)s, false) as leased,
       s.generation_key,
       s.expires_at <= clock_timestamp()
           and (s.state <> 'streaming' or s.lease_until <= clock_timestamp()) as expired,
       u.disabled_at is not null as disabled,
       to_jsonb(mo) as model,
       r.epoch as reply_epoch, r.parts, r.finish_reason, r.provider_reason, r.error,
       r.input_tokens, r.output_tokens, r.source, h.turns,
       case when h.first > 1 then (
           select count(*) from messages m
            where m.chat_id = s.chat_id and m.position < h.first and m.superseded_by is null)
       end as earlier
  from sessions s
  join users u on u.id = s.user_id
  join models mo on mo.id = s.model_id
  join messages r on r.id = s.reply_id
  left join lateral (
      -- A filtered reply is not sent again: as a blank turn, it drops its question from the prompt too.
      select json_agg(json_build_array(t.role, case t.status when 'filtered' then '[]' else t.parts end, t.id)
                      order by t.position) as turns,
             min(t.position) as first
        from (select m.*, sum(m.size) over (order by m.position desc) - m.size as newer
                from (select m.id, m.role, m.status, m.parts, m.position,
                             coalesce(length(m.parts -> 0 ->> 'text'), 0) as size
                        from messages m
                       where s.state <> 'ended' and m.chat_id = s.chat_id and m.position < r.position
                         and m.superseded_by is null
                         -- What was answered to this question before is no part of it.
                         and m.reply_to is distinct from s.message_id
                       order by m.position desc limit %(turns)s) m) t
       where t.newer <= 2 * mo.context_characters) h on true
 where s.id = %(id)s
"""


class SessionRow(NamedTuple):
    """A row of `SESSION`."""

    user_id: str
    chat_id: str
    message_id: str
    reply_id: str
    state: str
    regenerate: bool
    epoch: int
    leased: bool
    generation_key: str | None
    expired: bool
    disabled: bool
    model: Mapping[str, Any]
    reply_epoch: int
    parts: Sequence[Mapping[str, str]]
    finish_reason: str | None
    provider_reason: str | None
    error: Mapping[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None
    source: str | None
    turns: Sequence[tuple[str, Sequence[Mapping[str, str]], str]] | None
    earlier: int | None

    def session(self, session_id: str) -> Session:
        """Return the domain's value."""
        return Session(
            id=session_id,
            user_id=self.user_id,
            chat_id=self.chat_id,
            message_id=self.message_id,
            reply_id=self.reply_id,
            state=_STATES[self.state],
            regenerate=self.regenerate,
            epoch=self.epoch,
            leased=self.leased,
            model=model_of(self.model),
            turns=tuple(
                Turn(_ROLES[role], text_of(parts), id_, above)
                for above, (role, parts, id_) in enumerate(self.turns or (), self.earlier or 0)
            ),
            earlier=self.earlier or 0,
            generation_key=self.generation_key,
            reply=reply_of(self) if self.state == SessionState.ENDED else None,
            source=self.source,
        )


# A session's epoch never decreases, so a process with an earlier epoch cannot take the session back. A
# writer takes the lease in any case; a reader only takes a lease that no other process holds. The asker of
# an earlier epoch is not charged for this one: that epoch's writer died, and this one has an asker of its
# own. A debt stays.
ATTACH = """
update sessions
   set state = 'streaming', epoch = %(epoch)s, generation_key = %(key)s,
       asked_model = %(asks)s or asked_model and epoch = %(epoch)s,
       prepaid_input_tokens = case when epoch = %(epoch)s then prepaid_input_tokens
                                   else least(prepaid_input_tokens, 0) end,
       prepaid_output_tokens = case when epoch = %(epoch)s then prepaid_output_tokens
                                    else least(prepaid_output_tokens, 0) end,
       owner = case when %(writer)s or lease_until is null or lease_until <= clock_timestamp()
                    then %(owner)s else owner end,
       lease_until = case when %(writer)s or owner = %(owner)s
                            or lease_until is null or lease_until <= clock_timestamp()
                          then clock_timestamp() + make_interval(secs => %(lease)s) else lease_until end
 where id = %(id)s and state <> 'ended' and epoch <= %(epoch)s and stop_requested_at is null
returning epoch
"""

# The new epoch is the server's clock in milliseconds and above the session's last epoch, so no cursor of an
# earlier text fits it (docs/decisions, epochs are milliseconds). Its asker is told by `ATTACH`, as there.
CLAIM = """
update sessions
   set state = 'streaming', generation_key = %(key)s, owner = %(owner)s, asked_model = false,
       prepaid_input_tokens = least(prepaid_input_tokens, 0),
       prepaid_output_tokens = least(prepaid_output_tokens, 0),
       epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint),
       lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
 where id = %(id)s and state <> 'ended' and stop_requested_at is null
   and (lease_until is null or lease_until <= clock_timestamp() or owner = %(owner)s)
returning epoch
"""

# The former asker's row is locked. So its end was either before, and its charge is known here, or comes
# later, and is charged the debt that this statement leaves. A candidate that asks already is the outcome of
# this call's first try: it is returned, and nothing changes. A candidate that ends meanwhile is passed over,
# because Postgres checks the conditions again once it has the row's lock.
HAND_OVER = """
with former as (
    select id, state, asked_model, reserved_input_tokens, prepaid_input_tokens, prepaid_output_tokens,
           charged_input_tokens, charged_output_tokens
      from sessions where id = %(asker)s::text for update),
chosen as (
    select s.id, s.asked_model, s.reserved_input_tokens
      from sessions s join users u on u.id = s.user_id
     where s.id = any(%(candidates)s::text[]) and s.generation_key = %(key)s and s.epoch = %(epoch)s
       and s.state = 'streaming' and s.stop_requested_at is null and u.disabled_at is null
     order by s.asked_model and s.id is distinct from %(asker)s::text desc,
              coalesce(s.lease_until > clock_timestamp(), false) desc,
              s.id is not distinct from %(asker)s::text desc, s.id
     limit 1 for update of s),
paid as (
    -- What all askers until now are charged together. `greatest` passes over null.
    select case when f.state = 'ended' and f.asked_model and f.charged_input_tokens is not null
                then f.prepaid_input_tokens + f.charged_input_tokens
                else greatest(coalesce(%(input)s::bigint, f.reserved_input_tokens, c.reserved_input_tokens),
                              f.prepaid_input_tokens) end as input_tokens,
           case when f.state = 'ended' and f.asked_model and f.charged_output_tokens is not null
                then f.prepaid_output_tokens + f.charged_output_tokens
                else greatest(%(output)s::bigint, f.prepaid_output_tokens) end as output_tokens
      from chosen c left join former f on true
     where not c.asked_model),
owing as (
    update sessions s
       set asked_model = false,
           prepaid_input_tokens = least(s.prepaid_input_tokens - paid.input_tokens, 0),
           prepaid_output_tokens = least(s.prepaid_output_tokens - paid.output_tokens, 0)
      from paid where s.id = %(asker)s::text and s.asked_model and s.state <> 'ended'),
asking as (
    update sessions s
       set asked_model = true,
           prepaid_input_tokens = s.prepaid_input_tokens + paid.input_tokens,
           prepaid_output_tokens = s.prepaid_output_tokens + paid.output_tokens
      from chosen, paid where s.id = chosen.id)
select id from chosen
"""

STANDING = """
select s.state, s.epoch, s.stop_requested_at is not null as stopping, u.disabled_at is not null as disabled,
       coalesce(s.lease_until > clock_timestamp() and s.owner <> %(owner)s, false) as leased,
       r.epoch as reply_epoch, r.parts, r.finish_reason, r.provider_reason, r.error,
       r.input_tokens, r.output_tokens
  from sessions s join messages r on r.id = s.reply_id join users u on u.id = s.user_id
 where s.id = %(id)s
"""


class StandingRow(NamedTuple):
    """A row of `STANDING`."""

    state: str
    epoch: int
    stopping: bool
    disabled: bool
    leased: bool
    reply_epoch: int
    parts: Sequence[Mapping[str, str]]
    finish_reason: str | None
    provider_reason: str | None
    error: Mapping[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None


# The left join returns a row for every id, so the caller learns of deleted sessions, which count as ended.
RENEW_LEASES = """
with mine as (select * from unnest(%(ids)s::text[], %(epochs)s::bigint[]) as mine(id, epoch)),
renewed as (
    update sessions s
       set owner = %(owner)s, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
      from mine
     where s.id = mine.id and s.epoch = mine.epoch and s.state = 'streaming'
       and (s.owner = %(owner)s or s.lease_until <= clock_timestamp()))
select mine.id as session_id, s.epoch is distinct from mine.epoch as overtaken,
       coalesce(s.state = 'ended', true) as ended, s.stop_requested_at is not null as stopping,
       u.disabled_at is not null as disabled
  from mine left join sessions s on s.id = mine.id left join users u on u.id = s.user_id
"""

# The first update that ends a session also saves the reply and charges the user, so both happen once. The
# session's row stays for a while, since limits count the sessions of the last minute. Where the reply's
# epoch is later than the session's (a hit after the writer died), another session was its asker, and is
# charged for it.
FINISH = f"""
with ended as (
    update sessions
       set state = 'ended', epoch = %(epoch)s, ended_at = clock_timestamp(), lease_until = null,
           expires_at = greatest(expires_at, clock_timestamp() + {interval(KEPT_AFTER_END)}),
           charged_input_tokens = greatest(
               case when asked_model and epoch = %(epoch)s
                    then coalesce(%(charged_input)s::bigint, reserved_input_tokens) else 0 end
               - prepaid_input_tokens, 0),
           charged_output_tokens = greatest(
               case when asked_model and epoch = %(epoch)s then %(charged_output)s::bigint else 0 end
               - prepaid_output_tokens, 0)
     where id = %(id)s and state <> 'ended' and epoch <= %(epoch)s
 returning user_id, model_id, message_id, reply_id, chat_id, regenerate,
           asked_model, charged_input_tokens, charged_output_tokens),
touched as (
    update chats c
       set updated_at = clock_timestamp(), characters = c.characters + %(characters)s,
           revision = c.revision + 1
      from ended where c.id = ended.chat_id
 returning c.revision),
superseded as (
    update messages m set superseded_by = ended.reply_id, revision = touched.revision
      from ended, touched
     where ended.regenerate and %(answers)s and m.chat_id = ended.chat_id
       and m.reply_to = ended.message_id and m.id <> ended.reply_id and m.superseded_by is null),
replied as (
    update messages m
       set status = %(status)s, parts = %(parts)s, epoch = %(epoch)s, source = %(source)s,
           finish_reason = %(finish_reason)s, provider_reason = %(provider_reason)s, error = %(error)s,
           input_tokens = %(input_tokens)s, output_tokens = %(output_tokens)s,
           completed_at = clock_timestamp(), revision = touched.revision
      from ended, touched where m.id = ended.reply_id),
charged as (
    insert into token_usage as t (user_id, day, model_id, input_tokens, output_tokens)
    select user_id, (clock_timestamp() at time zone 'utc')::date, model_id,
           charged_input_tokens, charged_output_tokens
      from ended where asked_model or charged_input_tokens + charged_output_tokens > 0
    on conflict (user_id, day, model_id) do update
       set input_tokens = t.input_tokens + excluded.input_tokens,
           output_tokens = t.output_tokens + excluded.output_tokens)
select count(*) from ended
"""  # noqa: S608 - made of constants

# A session that nobody came for. One that ended, or is streamed meanwhile, stays as it is.
_EXPIRE = """
with old as (
    {old}),
touched as (
    update chats c set revision = c.revision + 1 from old where c.id = old.chat_id
 returning c.id, c.revision),
replied as (
    update messages m
       set status = %(status)s, error = %(error)s, completed_at = clock_timestamp(),
           revision = touched.revision
      from old join touched on touched.id = old.chat_id where m.id = old.reply_id),
ended as (
    update sessions s set state = 'ended', ended_at = clock_timestamp()
      from old where s.id = old.id
 returning s.id)
select count(*) from ended
"""

EXPIRE_SESSION = _EXPIRE.format(
    old="select id, reply_id, chat_id from sessions where id = %(session)s and state = 'open' for update"
)

# `statement_timestamp()`, since an index can serve it, unlike `clock_timestamp()`. Locked rows are skipped,
# since two purges may run at once.
EXPIRE_SESSIONS = _EXPIRE.format(
    old="""select id, reply_id, chat_id from sessions
     where state = 'open' and expires_at <= statement_timestamp()
     order by expires_at limit %(limit)s for update skip locked"""
)


def expiry_arguments(**arguments: object) -> dict[str, object]:
    """Return the arguments of `EXPIRE_SESSION` or `EXPIRE_SESSIONS`; each adds one of its own."""
    return {"status": "failed", "error": end_columns(NOBODY_CAME)["error"]} | arguments


REQUEST_STOP = f"""
update sessions s
   set stop_requested_at = coalesce(stop_requested_at, clock_timestamp())
 where id = %(id)s and {SESSION_ROLE} = any(%(roles)s)
   and (%(even_disabled)s
        or not exists (select from users u where u.id = %(user)s and u.disabled_at is not null))
returning state, coalesce(lease_until > clock_timestamp(), false) as leased, generation_key, epoch
"""  # noqa: S608 - made of constants


class StopRow(NamedTuple):
    """A row of `REQUEST_STOP`."""

    state: str
    leased: bool
    generation_key: str | None
    epoch: int
