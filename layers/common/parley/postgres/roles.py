"""Roles that log in to Postgres on RDS by IAM, in place of a password."""

import psycopg
from psycopg import sql


async def let_in(database_url: str, user: str) -> None:
    """Let `user` log in by its role, and read and write the tables that there are, but not change them.

    Repeating it is how a new table becomes the user's too. Raises psycopg's errors.
    """
    role = sql.Identifier(user)
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection:
        found = await connection.execute("select from pg_roles where rolname = %s", [user])
        if await found.fetchone() is None:
            await connection.execute(sql.SQL("create role {} login").format(role))
        for grant in _GRANTS:
            await connection.execute(sql.SQL(grant).format(role))


_GRANTS = (
    "grant rds_iam to {}",
    "grant usage on schema public to {}",
    "grant select, insert, update, delete on all tables in schema public to {}",
    "grant usage, select on all sequences in schema public to {}",
    "grant execute on all functions in schema public to {}",
)
