"""The laptop's demo data: two plans, a user on each, and the models of the catalogue."""

import psycopg

_PLANS = {"free": "Free", "pro": "Pro"}
_USERS = {"demo-free": "free", "demo-pro": "pro"}


async def seed(database_url: str) -> None:
    """Add what is missing and leave the rest as it is; raises psycopg's errors."""
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.executemany(
            "insert into plans (id, title, is_default) values (%s, %s, %s) on conflict do nothing",
            [(plan, title, plan == "free") for plan, title in _PLANS.items()],
        )
        await cursor.executemany(
            "insert into users (id, plan_id) values (%s, %s) on conflict do nothing", list(_USERS.items())
        )
