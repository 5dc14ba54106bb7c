"""What the database makes of the statements, where the tables are large."""

import re
from typing import Any

import psycopg
import pytest

from parley.domain.results import LeaseStatus, Orphan
from parley.postgres import chat_statements, prepared, purge_statements, session_statements, start_reads
from parley.postgres.chat_statements import ChatRow, HistoryRow, ModelRow
from parley.postgres.session_statements import SessionRow, StandingRow, StopRow
from tests.conformance.requests import new_session

_NAMES = re.compile(r"%\((\w+)\)s")
READS = [arguments for _, arguments in start_reads.reads(new_session(chat_id="chat"))[3:]]

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
        (purge_statements.PURGE_SESSIONS, (1000,), "expires_at <= statement_timestamp()"),
        (
            session_statements.EXPIRE_SESSIONS,
            session_statements.expiry_arguments(limit=1000),
            "expires_at <= statement_timestamp()",
        ),
        (purge_statements.ORPHANS, (5.0, 100, "purge"), "lease_until < (statement_timestamp()"),
        (purge_statements.PURGE_CHATS, (30, 1000), "updated_at < (statement_timestamp()"),
    ],
    ids=["sessions", "open sessions", "orphans", "chats"],
)
def test_the_purge_finds_what_is_due_by_an_index(
    database_url: str, statement: str, arguments: tuple[object, ...] | dict[str, object], condition: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(_FILL)
        connection.execute("set local enable_seqscan = off")
        plan = connection.execute(f"explain {statement}", arguments).fetchall()
        connection.rollback()
    lines = [line.strip() for [line] in plan]
    assert any(line.startswith("Index Cond:") and condition in line for line in lines), "\n".join(lines)


@pytest.mark.parametrize(
    ("statement", "shape", "arguments"),
    [
        (session_statements.SESSION, SessionRow, {"id": "", "owner": "", "turns": 1}),
        (session_statements.STANDING, StandingRow, {"id": "", "owner": ""}),
        (
            session_statements.REQUEST_STOP,
            StopRow,
            {"id": "", "user": "", "roles": [], "even_disabled": True},
        ),
        (
            session_statements.RENEW_LEASES,
            LeaseStatus,
            {"ids": [], "epochs": [], "owner": "", "lease": 1},
        ),
        (
            chat_statements.HISTORY,
            HistoryRow,
            {"chat": "", "user": "", "before": None, "limit": 1, "roles": []},
        ),
        (
            chat_statements.CHATS,
            ChatRow,
            {"user": "", "limit": 1, "before_at": None, "before_id": ""},
        ),
        (chat_statements.MODELS, ModelRow, [""]),
        (purge_statements.ORPHANS, Orphan, [1.0, 1, ""]),
        (start_reads.ACCOUNT, start_reads.AccountRow, READS[0]),
        (start_reads.CHAT, start_reads.ChatRow, READS[1]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_statement_selects_what_its_shape_names_in_the_same_order(
    database_url: str, statement: str, shape: type, arguments: Any
) -> None:
    names = getattr(shape, "_fields", None) or shape.__struct_fields__  # type: ignore[attr-defined]
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement.encode(), arguments)
        assert [column.name for column in cursor.description or ()] == list(names)


@pytest.mark.parametrize("number", [0, 1], ids=["account", "chat"])
def test_a_start_reads_by_indexes(database_url: str, number: int) -> None:
    statement = (start_reads.ACCOUNT, start_reads.CHAT)[number]
    with psycopg.connect(database_url) as connection:
        connection.execute(_FILL)
        connection.execute(
            "update plans set (requests_per_minute, concurrent_streams, tokens_per_day) = (9, 9, 9)"
        )
        connection.execute("set local enable_seqscan = off; set local plan_cache_mode = force_generic_plan")
        numbered, _, _ = prepared.numbered(statement)
        connection.execute(f"prepare plan_of_start as {numbered.decode()}")
        values = ", ".join(["null"] * len(set(_NAMES.findall(statement))))
        plan = connection.execute(f"explain execute plan_of_start({values})").fetchall()
        connection.rollback()
    text = "\n".join(line for [line] in plan)
    assert "Seq Scan" not in text, text
    assert text.count("Index") > 2
