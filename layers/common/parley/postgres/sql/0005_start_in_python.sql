-- The rules of a start are Python's (parley/domain/start.py); what is left here bounds its transaction.
--
-- The server ends a transaction that stays idle, because its process was frozen, which frees its locks; from
-- Postgres 17 on, also one of which half a message came. It ends the wait for a lock whose caller has long gone.
-- And it keeps one plan for each prepared statement: a large statement that looks up keys needs none for its very
-- values, which takes longer to make than the statement takes to run. All of it holds for the transaction alone.
-- It is set by a function, because RDS Proxy would pin a connection on which a client sets anything itself.
create function bound_transaction() returns void language plpgsql as $$
begin
    perform set_config('idle_in_transaction_session_timeout', '10s', true),
            set_config('lock_timeout', '20s', true),
            set_config('plan_cache_mode', 'force_generic_plan', true);
    if current_setting('server_version_num')::integer >= 170000 then
        perform set_config('transaction_timeout', '40s', true);
    end if;
end $$;

-- `begin_session` stays for one release, because the code of the release before goes on calling it while this
-- one is deployed. A later migration drops it, and `expire_session` with it. No running code calls these two.
drop function open_session;
drop function start_session;
