"""The statements of the purge. They skip locked rows, since two purges may run at once.

They use `statement_timestamp()`, since an index can serve it, unlike `clock_timestamp()`.
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
returning s.id as session_id, s.generation_key, s.epoch, s.stop_requested_at is not null as stopping
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
