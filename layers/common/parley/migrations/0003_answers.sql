-- A session may be opened with its reply, where that is known already.

-- Takes the place of `open_session`, which the code before this migration goes on calling, and which does
-- nearly all of the work.
--
-- Of a new chat's question the caller can tell which reply it has, if it knows the model. `p_version` is what
-- it knows, and `p_answer` the reply. A reply that was found for any other version of the model is left out:
-- the caller is told the model as it is now, and the session is opened as any other.
create function begin_session(
    p_user text, p_create_user boolean, p_prompt text, p_model text, p_chat text,
    p_regenerate boolean, p_key text, p_hash text, p_title text,
    p_session text, p_new_chat text, p_new_message text, p_new_reply text, p_seconds double precision,
    p_version text, p_answer jsonb,
    out outcome text, out session_id text, out chat_id text, out message_id text, out reply_id text,
    out expires_at timestamptz,
    out retry_seconds double precision, out requests_left bigint, out streams_left bigint,
    out tokens_left bigint,
    out answered boolean, out version text, out model jsonb
) language plpgsql as $$
#variable_conflict use_column
declare
    v_version  text;
    v_expires  timestamptz;
begin
    answered := false;
    select o.outcome, o.session_id, o.chat_id, o.message_id, o.reply_id, o.expires_at,
           o.retry_seconds, o.requests_left, o.streams_left, o.tokens_left
      into outcome, session_id, chat_id, message_id, reply_id, expires_at,
           retry_seconds, requests_left, streams_left, tokens_left
      from open_session(p_user, p_create_user, p_prompt, p_model, p_chat, p_regenerate, p_key, p_hash, p_title,
                        p_session, p_new_chat, p_new_message, p_new_reply, p_seconds) o;
    if outcome <> 'started' or p_chat is not null or p_regenerate then return; end if;

    -- A row's version is the transaction that wrote it.
    select m.xmin::text into v_version from models m where m.id = p_model;
    if v_version is distinct from p_version then
        select jsonb_build_array(m.id, m.provider, m.name, m.title, m.max_output_tokens, m.context_characters,
                                 m.system_prompt, m.parameters)
          into model from models m where m.id = p_model and m.xmin::text = v_version;
        version := v_version;
        return;
    end if;
    -- A repeat finds the first one's session, which keeps what it was opened with.
    if p_answer is null or session_id <> p_session then return; end if;

    update sessions s
       set state = 'ended', epoch = (p_answer ->> 'epoch')::bigint, ended_at = clock_timestamp(),
           expires_at = greatest(s.expires_at, clock_timestamp() + interval '5 minutes')
     where s.id = p_session and s.state = 'open'
    returning s.expires_at into v_expires;
    if not found then
        -- The same order, run again after its connection was lost.
        select s.state = 'ended' and m.source = 'cache' into answered
          from sessions s join messages m on m.id = s.reply_id where s.id = p_session;
        return;
    end if;
    answered := true;
    expires_at := v_expires;
    update messages m
       set status = 'complete', source = 'cache', epoch = (p_answer ->> 'epoch')::bigint,
           parts = jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_answer ->> 'text')),
           finish_reason = 'stop', provider_reason = p_answer ->> 'providerReason',
           input_tokens = (p_answer ->> 'inputTokens')::integer,
           output_tokens = (p_answer ->> 'outputTokens')::integer, completed_at = clock_timestamp()
     where m.id = p_new_reply;
    update chats c set characters = c.characters + length(p_answer ->> 'text') where c.id = p_new_chat;
end $$;
