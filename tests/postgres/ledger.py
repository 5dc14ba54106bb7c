"""Two accounts to lock and read, and entries to write, for tests of transactions."""

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from parley.postgres.batch import Query
from parley.postgres.prepared import Row
from tests.client import eventually

LOCK: Query = ("select from accounts where id = 'a' for no key update", ())
READ: Query = ("select amount from accounts where id = 'a'", ())
ENTRIES: Query = ("select id from entries", ())

Decision = Callable[[list[list[Row]]], tuple[Sequence[Query], Any]]


def insert(name: str) -> Query:
    return ("insert into entries (id) values (%s)", [name])


def writing(name: str, result: object = "written") -> Decision:
    return lambda rows: ([insert(name)], result)


def decided(writes: Sequence[Query]) -> Decision:
    return lambda _: (writes, None)


def entries(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as admin:
        return [name for [name] in admin.execute("select id from entries order by id").fetchall()]


def locked(admin: "psycopg.Connection[Any]") -> None:
    admin.execute("begin; select from accounts where id = 'a' for no key update")


async def waiting(database_url: str, count: int) -> None:
    """Wait until so many backends wait for a lock."""

    async def so_many() -> bool:
        with psycopg.connect(database_url) as admin:
            waits = admin.execute(
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
        return waits == (count,)

    await eventually(so_many)


def make(database_url: str) -> str:
    """Make the tables."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("create table accounts (id text primary key, amount int not null)")
        admin.execute("insert into accounts values ('a', 1), ('b', 2)")
        admin.execute("create table entries (id text primary key)")
    return database_url
