"""Creates the Postgres role that logs in on RDS with IAM authentication, without a password."""

import psycopg
from psycopg import sql


async def let_in(database_url: str, user: str) -> None:
    """Let the role `user` log in, and read and write the existing tables, but not alter them.

    Repeat the call after a migration: grants cover the tables that exist when they are made. Raises
    psycopg's errors.
    """
    role = sql.Identifier(user)
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection:
        found = await connection.execute("select from pg_roles where rolname = %s", [user])
        if await found.fetchone() is None:
            await connection.execute(sql.SQL("create role {} login").format(role))
        # Grants are repeated for an existing role too, since migrations may have added tables.
        for grant in _GRANTS:
            await connection.execute(sql.SQL(grant).format(role))


_GRANTS = (
    "grant rds_iam to {}",
    "grant usage on schema public to {}",
    "grant select, insert, update, delete on all tables in schema public to {}",
    "grant usage, select on all sequences in schema public to {}",
    "grant execute on all functions in schema public to {}",
)
