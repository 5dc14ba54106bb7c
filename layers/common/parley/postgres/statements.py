"""The SQL statements of `PostgresStore`: one for each use case, each safe to repeat."""

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
       mo.id, mo.provider, mo.name, mo.title, mo.max_output_tokens, mo.context_characters,
       mo.system_prompt, mo.parameters, mo.options,
       r.epoch, r.parts, r.finish_reason, r.provider_reason, r.error, r.input_tokens, r.output_tokens,
       case when s.state <> 'ended' then (
           -- A filtered reply is not sent again: as a blank turn, it drops its question from the prompt too.
           select json_agg(json_build_array(t.role, case t.status when 'filtered' then '[]' else t.parts end)
                           order by t.position)
             from (select m.*, sum(m.size) over (order by m.position desc) - m.size as newer
                     from (select m.role, m.status, m.parts, m.position,
                                  coalesce(length(m.parts -> 0 ->> 'text'), 0) as size
                             from messages m
                            where m.chat_id = s.chat_id and m.position < r.position
                              and m.superseded_by is null
                            order by m.position desc limit %(turns)s) m) t
            where t.newer <= 2 * mo.context_characters
       ) end,
       r.source
  from sessions s
  join users u on u.id = s.user_id
  join models mo on mo.id = s.model_id
  join messages r on r.id = s.reply_id
 where s.id = %(id)s
"""

# A session's epoch never decreases, so a process with an earlier epoch cannot take the session back. A writer
# takes the lease in any case; a reader only takes a lease that no other process holds.
ATTACH = """
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

# The new epoch is the server's clock in milliseconds and above the session's last epoch, so no cursor of an
# earlier text fits it (docs/decisions, epochs are milliseconds).
CLAIM = """
update sessions
   set state = 'streaming', generation_key = %(key)s, owner = %(owner)s,
       epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint),
       lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
 where id = %(id)s and state <> 'ended' and stop_requested_at is null
   and (lease_until is null or lease_until <= clock_timestamp() or owner = %(owner)s)
returning epoch
"""

STANDING = """
select s.state, s.epoch, s.stop_requested_at is not null, u.disabled_at is not null,
       coalesce(s.lease_until > clock_timestamp() and s.owner <> %(owner)s, false),
       r.epoch, r.parts, r.finish_reason, r.provider_reason, r.error, r.input_tokens, r.output_tokens
  from sessions s join messages r on r.id = s.reply_id join users u on u.id = s.user_id
 where s.id = %(id)s
"""

# The left join returns a row for every id, so the caller learns of deleted sessions, which count as ended.
RENEW_LEASES = """
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

# The first update that ends a session also saves the reply and charges the user, so both happen once. The
# session's row stays for five minutes, since limits count the sessions of the last minute.
FINISH = """
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

REQUEST_STOP = """
update sessions
   set stop_requested_at = coalesce(stop_requested_at, clock_timestamp())
 where id = %s and (%s::text is null or user_id = %s)
returning state, coalesce(lease_until > clock_timestamp(), false), generation_key, epoch
"""

# A join for the open session, since a subquery would run once for each message. There is no outer `order by`:
# the caller sorts the rows.
HISTORY = """
select c.title, s.id, u.disabled_at is not null,
       m.id, m.position, m.role, m.status, m.parts, m.created_at, m.completed_at, m.model_id,
       m.reply_to, m.superseded_by, m.source, m.finish_reason, m.error, m.input_tokens, m.output_tokens
  from chats c
  join users u on u.id = c.owner_id
  left join sessions s on s.chat_id = c.id and s.state <> 'ended'
   and (s.state = 'streaming' or s.expires_at > clock_timestamp())
  left join lateral (
      select * from messages m
       where m.chat_id = c.id and m.position < coalesce(%(before)s::bigint, 9223372036854775807)
       order by m.position desc limit %(limit)s) m on true
 where c.id = %(chat)s and c.owner_id = %(user)s
"""

CHATS = """
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

MODELS = """
select m.id, m.title, m.provider,
       exists (select from plan_models pm where pm.plan_id = u.plan_id and pm.model_id = m.id),
       (select coalesce(array_agg(p.title order by p.title), '{}')
          from plan_models pm join plans p on p.id = pm.plan_id where pm.model_id = m.id),
       u.disabled_at is not null
  from users u left join models m on m.enabled
 where u.id = %s
 order by m.rank, m.id
"""

CREATE_USER = """
insert into users (id, plan_id) select %s, p.id from plans p where p.is_default on conflict do nothing
"""

# The update sets `lease_until`, so that no purge returns the same orphans again within the grace period.
ORPHANS = """
with lost as (
    select id from sessions
     where state = 'streaming' and lease_until < statement_timestamp() - make_interval(secs => %s)
     order by lease_until limit %s for update skip locked)
update sessions s
   set owner = %s, lease_until = clock_timestamp()
  from lost where s.id = lost.id
returning s.id, s.generation_key, s.epoch, s.stop_requested_at is not null
"""

# The statements of the purge use `statement_timestamp()`, since an index can serve it, unlike
# `clock_timestamp()`. They skip locked rows, since two purges may run at once.
EXPIRE = """
with old as (
    select id from sessions where state = 'open' and expires_at <= statement_timestamp()
     order by expires_at limit %s for update skip locked)
select count(*) from (select expire_session(id) from old) e
"""

PURGE_SESSIONS = """
with old as (
    select id from sessions where state = 'ended' and expires_at <= statement_timestamp()
     order by expires_at limit %s for update skip locked),
gone as (delete from sessions s using old where s.id = old.id returning 1)
select count(*) from gone
"""

PURGE_CHATS = """
with old as (
    select c.id from chats c
     where c.updated_at < statement_timestamp() - make_interval(days => %s)
       and not exists (select from sessions s where s.chat_id = c.id and s.state <> 'ended')
     order by c.updated_at limit %s for update skip locked),
gone as (delete from chats c using old where c.id = old.id returning 1)
select count(*) from gone
"""
