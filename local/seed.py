"""Seeds the laptop's database: the plans and models of `catalogue.toml`, and one user on each plan."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import psycopg

from parley.postgres.catalogue import CatalogueError, load, read

CATALOGUE = Path(__file__).with_name("catalogue.toml")
_USERS = (("demo-free", "free"), ("demo-pro", "pro"))
# On the default plan, if an edited catalogue no longer has the user's plan.
_USER = """
insert into users (id, plan_id)
select %s, p.id from plans p where p.is_default or p.id = %s order by p.is_default limit 1
on conflict do nothing
"""


async def seed(database_url: str, catalogue: Path = CATALOGUE) -> None:
    """Load the catalogue's plans and models, and insert the demo users that are missing.

    Plans and models that the catalogue does not name stay as they are. Raises psycopg's errors, `OSError`,
    `TOMLDecodeError` and `CatalogueError`.
    """
    await load(database_url, read(tables(catalogue)))
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.executemany(_USER, _USERS)


def tables(catalogue: Path) -> dict[str, Any]:
    """Return the tables of a catalogue's file, not validated. Raises `OSError` and `TOMLDecodeError`."""
    return tomllib.loads(catalogue.read_text("utf-8"))


if __name__ == "__main__":
    # Prints the event that `make seed` sends to the migrate function. Only that function reaches a deployed
    # database.
    given = tables(Path(sys.argv[1]) if len(sys.argv) > 1 else CATALOGUE)
    try:
        read(given)
    except CatalogueError as error:
        sys.exit(f"The catalogue makes no sense: {error}")
    print(json.dumps({"Catalogue": given}))
