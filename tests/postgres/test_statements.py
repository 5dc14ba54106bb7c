"""What the database makes of the statements, where the tables are large."""

import psycopg
import pytest

from parley.postgres import statements

_FILL = """
insert into plans (id, title) values ('plan', 'Plan') on conflict do nothing;
insert into users (id, plan_id) values ('many', 'plan');
insert into chats (id, owner_id, title, model_id)
    select 'many' || n, 'many', 'Many', 'm' from generate_series(1, 9000) n;
-- A chat has one session at most that has not ended.
insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate, state, request_hash,
                      expires_at, lease_until)
    select 'many' || n, 'many', 'many' || n, 'm', 'r', 'm', false,
           case when n <= 3000 then 'open' when n <= 6000 then 'streaming' else 'ended' end, '',
           now() + make_interval(mins => n), now() + make_interval(mins => n)
      from generate_series(1, 9000) n;
analyze sessions, chats;
"""


@pytest.mark.parametrize(
    ("statement", "arguments", "condition"),
    [
        (statements.PURGE_SESSIONS, (1000,), "expires_at <= statement_timestamp()"),
        (statements.EXPIRE, (1000,), "expires_at <= statement_timestamp()"),
        (statements.ORPHANS, (5.0, 100, "purge"), "lease_until < (statement_timestamp()"),
        (statements.PURGE_CHATS, (30, 1000), "updated_at < (statement_timestamp()"),
    ],
    ids=["sessions", "open sessions", "orphans", "chats"],
)
def test_the_purge_finds_what_is_due_by_an_index(
    database_url: str, statement: str, arguments: tuple[object, ...], condition: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(_FILL)
        connection.execute("set local enable_seqscan = off")
        plan = connection.execute(f"explain {statement}", arguments).fetchall()
        connection.rollback()
    lines = [line.strip() for [line] in plan]
    assert any(line.startswith("Index Cond:") and condition in line for line in lines), "\n".join(lines)
