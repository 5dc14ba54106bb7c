-- Users and what they may use; chats and messages; sessions.

create table plans (
    id          text primary key,
    title       text not null,
    is_default  boolean not null default false
);
create unique index plans_default on plans (is_default) where is_default;

create table models (
    id                 text primary key,
    provider           text not null,
    name               text not null,
    title              text not null,
    system_prompt      text not null default '',
    max_output_tokens  integer not null check (max_output_tokens > 0),
    context_characters integer not null check (context_characters > 0),
    parameters         jsonb not null default '{}',
    enabled            boolean not null default true,
    rank               integer not null default 0
);

create table plan_models (
    plan_id   text not null references plans on delete cascade,
    model_id  text not null references models on delete cascade,
    primary key (plan_id, model_id)
);

create table users (
    id           text primary key,
    plan_id      text not null references plans,
    disabled_at  timestamptz,
    created_at   timestamptz not null default now()
);

create table chats (
    id             text primary key,
    owner_id       text not null references users on delete cascade,
    title          text not null,
    model_id       text not null,
    next_position  bigint not null default 1,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now()
);
create index chats_of_owner on chats (owner_id, updated_at desc, id desc);
create index chats_idle on chats (updated_at);

create table messages (
    id               text primary key,
    chat_id          text not null references chats on delete cascade,
    position         bigint not null,
    role             text not null check (role in ('user', 'assistant')),
    status           text not null check (
        status in ('pending', 'complete', 'stopped', 'truncated', 'filtered', 'failed')),
    parts            jsonb not null default '[]',
    model_id         text,
    reply_to         text,
    superseded_by    text,
    source           text,
    epoch            bigint not null default 0,
    finish_reason    text,
    provider_reason  text,
    error            jsonb,
    input_tokens     integer,
    output_tokens    integer,
    created_at       timestamptz not null default clock_timestamp(),
    completed_at     timestamptz,
    unique (chat_id, position)
);

create table sessions (
    id                 text primary key,
    user_id            text not null references users on delete cascade,
    chat_id            text not null references chats on delete cascade,
    message_id         text not null,
    reply_id           text not null,
    model_id           text not null,
    regenerate         boolean not null,
    state              text not null default 'open' check (state in ('open', 'streaming', 'ended')),
    idempotency_key    text,
    request_hash       text not null,
    generation_key     text,
    epoch              bigint not null default 0,
    owner              text,
    lease_until        timestamptz,
    stop_requested_at  timestamptz,
    created_at         timestamptz not null default clock_timestamp(),
    expires_at         timestamptz not null,
    ended_at           timestamptz
);
-- A chat answers one message at a time.
create unique index sessions_active on sessions (chat_id) where state <> 'ended';
create unique index sessions_once on sessions (user_id, idempotency_key) where idempotency_key is not null;
create index sessions_of_chat on sessions (chat_id);
create index sessions_expiry on sessions (expires_at);
create index sessions_leases on sessions (lease_until) where state = 'streaming';

-- Opens a session in one round trip. The lock on the user's row puts one user's starts in order, so
-- that neither a double click nor a burst can pass a check together.
create function start_session(
    p_user text, p_create_user boolean, p_prompt text, p_model text, p_chat text,
    p_regenerate boolean, p_key text, p_hash text, p_title text,
    p_session text, p_new_chat text, p_new_message text, p_new_reply text, p_seconds double precision,
    out outcome text, out session_id text, out chat_id text, out message_id text, out reply_id text,
    out expires_at timestamptz
) language plpgsql as $$
#variable_conflict use_column
declare
    v_user    users%rowtype;
    v_active  sessions%rowtype;
    v_before  sessions%rowtype;
    v_asked   messages%rowtype;
    v_place   bigint;
begin
    select * into v_user from users u where u.id = p_user for no key update;
    if not found and p_create_user then
        insert into users (id, plan_id) select p_user, p.id from plans p where p.is_default
            on conflict do nothing;
        select * into v_user from users u where u.id = p_user for no key update;
    end if;
    if v_user.id is null then outcome := 'no_user'; return; end if;
    if v_user.disabled_at is not null then outcome := 'disabled'; return; end if;

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

    if not exists (select from models m where m.id = p_model and m.enabled) then
        outcome := 'no_model'; return;
    end if;
    if not exists (select from plan_models pm where pm.plan_id = v_user.plan_id and pm.model_id = p_model) then
        outcome := 'not_in_plan'; return;
    end if;

    chat_id := p_chat;
    if p_chat is null then
        chat_id := p_new_chat;
        insert into chats (id, owner_id, title, model_id) values (chat_id, p_user, p_title, p_model);
    else
        perform from chats c where c.id = p_chat and c.owner_id = p_user for no key update;
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

    reply_id := p_new_reply;
    if p_regenerate and p_chat is not null then
        select * into v_asked from messages m
            where m.chat_id = p_chat and m.role = 'user' order by m.position desc limit 1;
        if v_asked.id is null then outcome := 'nothing_asked'; return; end if;
        if p_prompt is not null and p_prompt <> v_asked.parts -> 0 ->> 'text' then
            outcome := 'other_prompt'; return;
        end if;
        message_id := v_asked.id;
        update messages m set superseded_by = reply_id
            where m.chat_id = p_chat and m.reply_to = message_id and m.superseded_by is null;
    else
        message_id := p_new_message;
        update chats c set next_position = next_position + 1 where c.id = chat_id
            returning next_position - 1 into v_place;
        insert into messages (id, chat_id, position, role, status, parts, completed_at)
            values (message_id, chat_id, v_place, 'user', 'complete',
                    jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_prompt)),
                    clock_timestamp());
    end if;

    update chats c set next_position = next_position + 1, updated_at = clock_timestamp(), model_id = p_model
        where c.id = chat_id returning next_position - 1 into v_place;
    insert into messages (id, chat_id, position, role, status, model_id, reply_to)
        values (reply_id, chat_id, v_place, 'assistant', 'pending', p_model, message_id);

    session_id := p_session;
    expires_at := clock_timestamp() + make_interval(secs => p_seconds);
    insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate,
                          idempotency_key, request_hash, expires_at)
        values (session_id, p_user, chat_id, message_id, reply_id, p_model, p_regenerate,
                p_key, p_hash, expires_at);
    outcome := 'started';
end $$;

-- Ends a session that nobody ever read.
create function expire_session(p_session text) returns void language plpgsql as $$
begin
    update messages m
       set status = 'failed', completed_at = clock_timestamp(),
           error = '{"code": "session_expired", "message": "Nobody came to read this reply.", "retryable": true}'
      from sessions s
     where s.id = p_session and s.state = 'open' and m.id = s.reply_id;
    update sessions set state = 'ended', ended_at = clock_timestamp() where id = p_session and state = 'open';
end $$;
