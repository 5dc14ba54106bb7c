"""Applies the numbered SQL files in `parley/postgres/sql`, each once and in order."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from parley.postgres.connecting import plain_connection

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# The advisory lock's key. Any number serves, as long as every process of Parley uses the same.
_LOCK = 0x9A71E9
_WAIT = "60s"
_TABLE = (
    "create table if not exists schema_migrations"
    " (name text primary key, applied_at timestamptz not null default now())"
)


def _shipped() -> Traversable:
    return files("parley.postgres").joinpath("sql")


def pending(applied: set[str], folder: Traversable | None = None) -> list[str]:
    """Return the names of the migrations in `folder` that are not in `applied`, in order."""
    names = [entry.name for entry in (folder or _shipped()).iterdir()]
    return sorted(name for name in names if _NAME.fullmatch(name) and name not in applied)


async def migrate(database_url: str, folder: Traversable | None = None) -> list[str]:
    """Apply the pending migrations of `folder`, by default Parley's own, and return their names.

    Each file and its row in `schema_migrations` are one transaction, so a failed file leaves nothing behind.
    An advisory lock admits one process at a time; a second one waits up to 60 seconds and then finds what is
    still pending. Raises psycopg's errors.
    """
    done: list[str] = []
    async with await plain_connection(database_url) as connection:
        # What is left behind in a session would be in the next one's of a pooler. So each transaction takes
        # the lock, and finds out anew what is pending.
        while True:
            async with connection.transaction():
                await connection.execute("select set_config('lock_timeout', %s, true)", [_WAIT])
                await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
                await connection.execute(_TABLE)
                rows = await (await connection.execute("select name from schema_migrations")).fetchall()
                names = pending({row[0] for row in rows}, folder)
                if not names:
                    return done
                text = (folder or _shipped()).joinpath(names[0]).read_text("utf-8")
                # Without parameters psycopg uses the simple protocol, which takes a file's many statements.
                await connection.execute(text.encode())
                await connection.execute("insert into schema_migrations (name) values (%s)", [names[0]])
            done.append(names[0])
