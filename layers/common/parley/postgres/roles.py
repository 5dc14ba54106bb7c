"""Creates the Postgres role that the functions log in as, who may not change the schema."""

from psycopg import sql

from parley.postgres.connecting import plain_connection


async def let_in(database_url: str, user: str, password: str = "") -> None:
    """Let the role `user` log in, and read and write the existing tables, but not alter them.

    It logs in with `password`, or on RDS with a token of IAM if that is empty. Repeat the call after a
    migration: grants cover the tables that exist when they are made. Raises psycopg's errors.
    """
    role = sql.Identifier(user)
    connection = await plain_connection(database_url)
    async with connection:
        found = await connection.execute("select from pg_roles where rolname = %s", [user])
        if await found.fetchone() is None:
            await connection.execute(sql.SQL("create role {} login").format(role))
        # Grants are repeated for an existing role too, since migrations may have added tables.
        for grant in _GRANTS:
            await connection.execute(sql.SQL(grant).format(role))
        if not password:
            await connection.execute(sql.SQL("grant rds_iam to {}").format(role))
            return
        # On RDS a member of this role logs in by token alone.
        member = await connection.execute(
            "select from pg_auth_members join pg_roles granted on granted.oid = roleid"
            " join pg_roles has on has.oid = member where granted.rolname = 'rds_iam' and has.rolname = %s",
            [user],
        )
        if await member.fetchone() is not None:
            await connection.execute(sql.SQL("revoke rds_iam from {}").format(role))
        # Hashed here, so that the server's log of statements can hold no password.
        hashed = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256")
        await connection.execute(
            sql.SQL("alter role {} password {}").format(role, sql.Literal(hashed.decode()))
        )


_GRANTS = (
    "grant usage on schema public to {}",
    "grant select, insert, update, delete on all tables in schema public to {}",
    "grant usage, select on all sequences in schema public to {}",
    "grant execute on all functions in schema public to {}",
)
