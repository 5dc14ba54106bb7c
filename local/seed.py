"""The laptop's demo data: two plans, a user on each, and the models of `catalogue.toml`."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import psycopg

from parley.adapters.catalogue import load

_CATALOGUE = Path(__file__).with_name("catalogue.toml")
_USERS = (("demo-free", "free"), ("demo-pro", "pro"))


async def seed(database_url: str, catalogue: Path = _CATALOGUE) -> None:
    """Add plans and users where they are missing, and bring the models to what the catalogue says.

    Models that the catalogue does not name stay as they are. Raises psycopg's errors.
    """
    await load(database_url, read(catalogue))
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.executemany(
            "insert into users (id, plan_id) values (%s, %s) on conflict do nothing", _USERS
        )


def read(catalogue: Path) -> list[dict[str, Any]]:
    """Return the models of a catalogue."""
    models: list[dict[str, Any]] = tomllib.loads(catalogue.read_text("utf-8"))["models"]
    return models


if __name__ == "__main__":
    # What `make seed` sends to the migrate function, which alone reaches a deployed database.
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _CATALOGUE
    print(json.dumps({"Catalogue": read(path)}))
