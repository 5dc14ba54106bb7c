-- What a plan allows, counted when a session opens; what was used, by user, day and model; what models cost.

alter table plans
    add column requests_per_minute integer check (requests_per_minute > 0),
    add column concurrent_streams  integer check (concurrent_streams > 0),
    add column tokens_per_day      bigint check (tokens_per_day > 0);

-- Dollars for a million tokens.
alter table models
    add column input_price   numeric check (input_price >= 0),
    add column output_price  numeric check (output_price >= 0);

-- How much text a chat holds, in code points; superseded replies count, so it is never too little.
alter table chats add column characters bigint not null default 0;
update chats c set characters = (
    select coalesce(sum(length(part ->> 'text')), 0)
      from messages m cross join jsonb_array_elements(m.parts) part where m.chat_id = c.id);

-- What a session may use is reserved until it ends; one that had its model asked is charged then.
alter table sessions
    add column reserved_input_tokens   integer not null default 0,
    add column reserved_output_tokens  integer not null default 0,
    add column asked_model             boolean not null default false;
create index sessions_of_user on sessions (user_id, created_at);
create index sessions_active_of_user on sessions (user_id) where state <> 'ended';

-- Days are UTC's.
create table token_usage (
    user_id        text not null references users on delete cascade,
    day            date not null,
    model_id       text not null,
    input_tokens   bigint not null,
    output_tokens  bigint not null,
    primary key (user_id, day, model_id)
);

-- Takes the place of `start_session`, which the code before this migration goes on calling.
--
-- All that limits count is read in one statement, under the lock on the user's row: no other start of
-- this user can come in between, and a session that ends meanwhile is counted as running or as used,
-- never as neither.
create function open_session(
    p_user text, p_create_user boolean, p_prompt text, p_model text, p_chat text,
    p_regenerate boolean, p_key text, p_hash text, p_title text,
    p_session text, p_new_chat text, p_new_message text, p_new_reply text, p_seconds double precision,
    out outcome text, out session_id text, out chat_id text, out message_id text, out reply_id text,
    out expires_at timestamptz,
    out retry_seconds double precision, out requests_left bigint, out streams_left bigint,
    out tokens_left bigint
) language plpgsql as $$
#variable_conflict use_column
declare
    v_user        users%rowtype;
    v_active      sessions%rowtype;
    v_before      sessions%rowtype;
    v_asked       messages%rowtype;
    v_terms       record;
    v_used        record;
    v_now         timestamptz;
    v_again       boolean := p_regenerate and p_chat is not null;
    v_place       bigint := 1;
    v_characters  bigint := 0;
    v_added       bigint := 0;
    v_input       integer;
    v_output      integer;
begin
    select * into v_user from users u where u.id = p_user for no key update;
    if not found and p_create_user then
        insert into users (id, plan_id) select p_user, p.id from plans p where p.is_default
            on conflict do nothing;
        select * into v_user from users u where u.id = p_user for no key update;
    end if;
    if v_user.id is null then outcome := 'no_user'; return; end if;
    if v_user.disabled_at is not null then outcome := 'disabled'; return; end if;

    -- A repeat finds the first one's session, whatever the limits say by now.
    select * into v_before from sessions s where s.id = p_session;
    if v_before.id is null and p_key is not null then
        select * into v_before from sessions s where s.user_id = p_user and s.idempotency_key = p_key;
    end if;
    if v_before.id is not null then
        if v_before.user_id <> p_user or v_before.request_hash <> p_hash then
            outcome := 'key_reused'; return;
        end if;
        outcome := 'started'; session_id := v_before.id; chat_id := v_before.chat_id;
        message_id := v_before.message_id; reply_id := v_before.reply_id;
        expires_at := v_before.expires_at; return;
    end if;

    select m.max_output_tokens, m.context_characters, length(m.system_prompt) as system_characters,
           pm.plan_id is not null as included,
           p.requests_per_minute, p.concurrent_streams, p.tokens_per_day
      into v_terms
      from models m
      join plans p on p.id = v_user.plan_id
      left join plan_models pm on pm.plan_id = p.id and pm.model_id = m.id
     where m.id = p_model and m.enabled;
    if not found then outcome := 'no_model'; return; end if;
    if not v_terms.included then outcome := 'not_in_plan'; return; end if;

    if p_chat is not null then
        select c.characters into v_characters
          from chats c where c.id = p_chat and c.owner_id = p_user for no key update;
        if not found then outcome := 'no_chat'; return; end if;
        select * into v_active from sessions s where s.chat_id = p_chat and s.state <> 'ended';
        if v_active.id is not null then
            if v_active.state = 'open' and v_active.expires_at <= clock_timestamp() then
                perform expire_session(v_active.id);
            else
                outcome := 'busy'; session_id := v_active.id; return;
            end if;
        end if;
    end if;
    if v_again then
        select * into v_asked from messages m
            where m.chat_id = p_chat and m.role = 'user' order by m.position desc limit 1;
        if v_asked.id is null then outcome := 'nothing_asked'; return; end if;
        if p_prompt is not null and p_prompt <> v_asked.parts -> 0 ->> 'text' then
            outcome := 'other_prompt'; return;
        end if;
    else
        v_added := length(p_prompt);
    end if;

    v_now := clock_timestamp();
    -- As `quota.estimated` has it. A question that is longer than the context is sent all the same.
    v_input := ceil((greatest(least(v_characters + v_added, v_terms.context_characters), v_added)
                     + v_terms.system_characters) / 4.0);
    v_output := v_terms.max_output_tokens;
    if coalesce(v_terms.requests_per_minute, v_terms.concurrent_streams, v_terms.tokens_per_day) is not null then
        select case when v_terms.requests_per_minute is not null then (
                   select count(*) from sessions s
                    where s.user_id = p_user and s.created_at > v_now - interval '1 minute') end as requests,
               count(*) as streams,
               coalesce(sum(s.reserved_input_tokens + s.reserved_output_tokens), 0) as reserved,
               case when v_terms.tokens_per_day is not null then (
                   select coalesce(sum(t.input_tokens + t.output_tokens), 0) from token_usage t
                    where t.user_id = p_user and t.day = (v_now at time zone 'utc')::date) end as tokens
          into v_used
          from sessions s
         where s.user_id = p_user and s.state <> 'ended'
           -- What nobody reads any more holds nobody up, long before the purge comes by.
           and (case s.state when 'open' then s.expires_at > v_now
                             else s.lease_until > v_now - interval '1 minute' end);
        requests_left := v_terms.requests_per_minute - v_used.requests;
        streams_left := v_terms.concurrent_streams - v_used.streams;
        tokens_left := v_terms.tokens_per_day - v_used.tokens - v_used.reserved;
        if tokens_left < v_input + v_output then
            outcome := 'limit_tokens';
            -- Where it is only the running replies' reserve, a stream's end frees it.
            if v_terms.tokens_per_day - v_used.tokens < v_input + v_output then
                retry_seconds := extract(epoch from
                    ((v_now at time zone 'utc')::date + 1)::timestamp at time zone 'utc' - v_now);
            end if;
            return;
        elsif requests_left < 1 then
            outcome := 'limit_requests';
            select extract(epoch from s.created_at + interval '1 minute' - v_now) into retry_seconds
              from sessions s
             where s.user_id = p_user and s.created_at > v_now - interval '1 minute'
             order by s.created_at desc offset v_terms.requests_per_minute - 1 limit 1;
            return;
        elsif streams_left < 1 then
            outcome := 'limit_streams'; return;
        end if;
    end if;

    reply_id := p_new_reply;
    message_id := case when v_again then v_asked.id else p_new_message end;
    if p_chat is null then
        chat_id := p_new_chat;
        insert into chats (id, owner_id, title, model_id, next_position, characters, created_at, updated_at)
            values (chat_id, p_user, p_title, p_model, 3, v_added, v_now, v_now);
    else
        chat_id := p_chat;
        update chats c
           set next_position = next_position + case when v_again then 1 else 2 end,
               characters = characters + v_added, updated_at = v_now, model_id = p_model
         where c.id = p_chat
        returning next_position - case when v_again then 1 else 2 end into v_place;
    end if;
    if v_again then
        update messages m set superseded_by = reply_id
            where m.chat_id = p_chat and m.reply_to = message_id and m.superseded_by is null;
    else
        insert into messages (id, chat_id, position, role, status, parts, created_at, completed_at)
            values (message_id, chat_id, v_place, 'user', 'complete',
                    jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_prompt)), v_now, v_now);
        v_place := v_place + 1;
    end if;
    insert into messages (id, chat_id, position, role, status, model_id, reply_to, created_at)
        values (reply_id, chat_id, v_place, 'assistant', 'pending', p_model, message_id, v_now);

    session_id := p_session;
    expires_at := v_now + make_interval(secs => p_seconds);
    insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate,
                          idempotency_key, request_hash, created_at, expires_at,
                          reserved_input_tokens, reserved_output_tokens)
        values (session_id, p_user, chat_id, message_id, reply_id, p_model, p_regenerate,
                p_key, p_hash, v_now, expires_at, v_input, v_output);
    outcome := 'started';
end $$;
