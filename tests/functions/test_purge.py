"""The purge function's handler, on a real Postgres and a real Valkey."""

import asyncio
import json
import logging
from collections.abc import Iterator

import psycopg
import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.purge import app
from parley.domain.conversation import NewSession
from parley.domain.errors import StoreUnavailable
from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from parley.settings import Settings
from parley.support import logs
from tests.conformance.requests import new_session

NOTHING = {
    "parked_saved": 0, "orphans_ended": 0, "sessions_expired": 0, "sessions_deleted": 0, "chats_deleted": 0,
}  # fmt: skip
SECRET = "a prompt that nobody may see"


class Context(LambdaContext):
    """What Lambda tells of an invocation."""

    function_name = "purge"
    memory_limit_in_mb = 128
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:purge"
    aws_request_id = "request-1"


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Undo what a test's `use` configured."""
    root, parley = logging.getLogger(), logging.getLogger("parley")
    handlers, level, own_level = root.handlers, root.level, parley.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    parley.setLevel(own_level)


def use(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the function these settings, which configure the logs when they are read, as in a deployment."""

    def read() -> Settings:
        logs.configure(settings.log_level)
        return settings

    monkeypatch.setattr(app, "settings", read)


@pytest.fixture
def database(
    demo_database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection]:
    settings = Settings(
        database_url=demo_database_url, valkey_url=valkey_url, key_secret="s" * 32, retention_days=30
    )
    use(settings, monkeypatch)
    with psycopg.connect(demo_database_url, autocommit=True) as connection:
        yield connection


def start(database: psycopg.Connection, session_id: str) -> None:
    """Open a session as the functions do."""
    ids = {
        "new_session_id": session_id,
        "new_chat_id": f"chat-{session_id}",
        "new_message_id": f"message-{session_id}",
        "new_reply_id": f"reply-{session_id}",
    }
    asyncio.run(
        _start(database.info.dsn, database.info.password, new_session(SECRET, "demo", "demo-pro", **ids))
    )


async def _start(dsn: str, password: str, asked: NewSession) -> None:
    pool = Pool(f"{dsn} password={password}", size=1, timeout=20)
    await PostgresStore(pool, owner="start", session_seconds=600).start(asked)
    await pool.close()


def test_the_counts_are_returned_logged_and_measured(
    database: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("expired", "live", "orphan", "old"):
        start(database, name)
    database.execute(
        "update sessions set expires_at = now() - interval '1 second' where id in ('expired', 'old')"
    )
    database.execute(
        "update sessions set state = 'streaming', epoch = 5, lease_until = now() - interval '2 minutes'"
        " where id = 'orphan'"
    )
    database.execute("update chats set updated_at = now() - interval '31 days' where id = 'chat-old'")
    expected = NOTHING | {
        "orphans_ended": 1, "sessions_expired": 2, "sessions_deleted": 2, "chats_deleted": 1,
    }  # fmt: skip
    assert app.handler({"source": "aws.scheduler"}, Context()) == expected
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line.startswith("{")]
    [measured] = [line for line in lines if "_aws" in line]
    assert {name: measured[name] for name in expected} == {name: [count] for name, count in expected.items()}
    assert measured["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Parley"
    [entry] = [line for line in lines if line.get("message") == "purged"]
    del entry["timestamp"]
    assert entry == {"level": "INFO", "logger": "parley.purge", "message": "purged"} | expected
    said = json.dumps(lines)
    assert all(secret not in said for secret in (SECRET, "chat-old", "ssssssss", "postgresql://"))
    states = database.execute("select id, state from sessions order by id").fetchall()
    assert states == [("live", "open"), ("orphan", "ended")]
    assert app.handler({}, Context()) == NOTHING


# Powertools warns where there is nothing to measure.
@pytest.mark.filterwarnings("ignore:No application metrics")
def test_a_database_that_is_away_fails_the_invocation(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        database_url="postgresql://parley:hidden@127.0.0.1:1/x", valkey_url=valkey_url, key_secret="s" * 32,
        database_timeout=1.0,
    )  # fmt: skip
    use(settings, monkeypatch)
    with pytest.raises(StoreUnavailable) as caught:
        app.handler({}, Context())
    assert "hidden" not in str(caught.value)
    assert "hidden" not in capsys.readouterr().out
