"""Seeds the laptop's database: the plans and models of `catalogue.toml`, and one user on each plan."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from parley.postgres.catalogue import CatalogueError, load, read
from parley.postgres.connecting import plain_connection

CATALOGUE = Path(__file__).with_name("catalogue.toml")
_USERS = (("demo-free", "free"), ("demo-pro", "pro"))
# On the default plan, if the catalogue does not have the user's plan.
_USER = """
insert into users (id, plan_id)
select %(user)s, p.id from plans p where p.is_default or p.id = %(plan)s and p.id = any(%(plans)s)
order by p.is_default limit 1
on conflict (id) do update set plan_id = excluded.plan_id where users.plan_id <> all(%(plans)s)
"""
_EVERYBODY = """
update users set plan_id = p.id from plans p where p.is_default and users.plan_id <> all(%(plans)s)
"""


async def seed(database_url: str, catalogue: Path = CATALOGUE) -> None:
    """Load the catalogue's plans and models, and insert the demo users that are missing.

    Where the catalogue has plans, the users of others move: a demo user to its own plan if the catalogue has
    that, everybody else to the default one. Raises psycopg's errors, `OSError`, `TOMLDecodeError` and
    `CatalogueError`.
    """
    given = read(tables(catalogue))
    await load(database_url, given)
    connection = await plain_connection(database_url)
    async with connection, connection.cursor() as cursor:
        if not (plans := [plan.id for plan in given.plans]):
            await cursor.execute("select id from plans")
            plans = [row[0] for row in await cursor.fetchall()]
        for user, plan in _USERS:
            await cursor.execute(_USER, {"user": user, "plan": plan, "plans": plans})
        await cursor.execute(_EVERYBODY, {"plans": plans})


def tables(catalogue: Path) -> dict[str, Any]:
    """Return the tables of a catalogue's file, not validated. Raises `OSError` and `TOMLDecodeError`."""
    return tomllib.loads(catalogue.read_text("utf-8"))


if __name__ == "__main__":
    # Prints the event that `make seed` sends to the migrate function. Only that function reaches a deployed
    # database.
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else CATALOGUE
    try:
        given = tables(file)
        read(given)
    except OSError as error:
        sys.exit(f"The catalogue {file} cannot be read: {error.strerror}.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, CatalogueError) as error:
        sys.exit(f"The catalogue makes no sense: {error}")
    print(json.dumps({"Catalogue": given}))
