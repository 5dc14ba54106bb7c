"""Applies the numbered SQL files in `parley/postgres/sql`, each once and in order."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# The advisory lock's key. Any number serves, as long as every process of Parley uses the same.
_LOCK = 0x9A71E9
_WAIT = "60s"


def _shipped() -> Traversable:
    return files("parley.postgres").joinpath("sql")


def pending(applied: set[str], folder: Traversable | None = None) -> list[str]:
    """Return the names of the migrations in `folder` that are not in `applied`, in order."""
    names = [entry.name for entry in (folder or _shipped()).iterdir()]
    return sorted(name for name in names if _NAME.fullmatch(name) and name not in applied)


async def migrate(database_url: str, folder: Traversable | None = None) -> list[str]:
    """Apply the pending migrations of `folder`, by default Parley's own, and return their names.

    Each file and its row in `schema_migrations` are one transaction, so a failed file leaves nothing behind.
    An advisory lock admits one process at a time; a second one waits up to 60 seconds and then finds nothing
    pending. Raises psycopg's errors.
    """
    done: list[str] = []
    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True, connect_timeout=10)
    async with connection:
        await connection.execute("select set_config('lock_timeout', %s, false)", [_WAIT])
        # A session's lock, since a lock of a transaction would end with the first file.
        await connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        await connection.execute(
            "create table if not exists schema_migrations"
            " (name text primary key, applied_at timestamptz not null default now())"
        )
        rows = await (await connection.execute("select name from schema_migrations")).fetchall()
        for name in pending({row[0] for row in rows}, folder):
            text = (folder or _shipped()).joinpath(name).read_text("utf-8")
            async with connection.transaction():
                # Without parameters psycopg uses the simple protocol, which takes a file's many statements.
                await connection.execute(text.encode())
                await connection.execute("insert into schema_migrations (name) values (%s)", [name])
            done.append(name)
    return done
