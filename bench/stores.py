"""The Postgres and the Valkey that all share, and what is put into them before anything is measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import psycopg
from psycopg.sql import SQL, Identifier

from bench import machine
from bench.builds import Build
from bench.invocations import Function
from local.embedded import EmbeddedStores

_PROVIDERS = {"claude": "anthropic", "grok": "xai"}
_PEERS_SCHEMA = Path(__file__).parent / "peers/schema.sql"


class Stores:
    """Embedded stores for one run.

    The floor and the peers share a database, whose tables are the present build's and the peers'. A build of
    Parley that is measured has one of its own.
    """

    def __init__(self, folder: Path, models: Sequence[str], users: Sequence[str]) -> None:
        self._folder = folder
        self._models = models
        self._users = users
        self._embedded = EmbeddedStores(folder / "stores", volatile=True)
        self._pids: list[int] = []
        self.database_url = ""
        self.valkey_url = ""

    def fill(self, build: Build) -> None:
        """Wait until they answer, and make the tables of the floor and the peers."""
        addresses = self._embedded.wait()
        self.database_url, self.valkey_url = addresses.database_url, addresses.valkey_url
        self._pids = [addresses.postgres_pid, addresses.valkey_pid]
        self._make_tables(build, self.database_url)
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(_PEERS_SCHEMA.read_bytes())

    def database(self, build: Build) -> str:
        """Make a build's database and return its URL; raises `BadAnswer` and psycopg's errors."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(SQL("create database {}").format(Identifier(build.name)))
        url = urlsplit(self.database_url)._replace(path=f"/{build.name}").geturl()
        self._make_tables(build, url)
        return url

    def _make_tables(self, build: Build, url: str) -> None:
        """Have a build's own function migrate and load the models, and add the users."""
        env = {"DATABASE_URL": url, "AUTH_MODE": "trusted", "ALLOW_TRUSTED": "true"}
        with Function(build, "migrate", env, self._folder / f"{build.name}-migrate.log") as function:
            function.invoke({"Catalogue": catalogue(self._models)})
        with psycopg.connect(url, autocommit=True) as connection:
            for user in self._users:
                connection.execute("insert into users (id, plan_id) values (%s, 'pro')", [user])

    @property
    def valkey(self) -> SplitResult:
        """The parts of Valkey's address."""
        return urlsplit(self.valkey_url)

    def cpu(self) -> float:
        """Return the processor time that they have taken, in seconds."""
        return machine.cpu_seconds([pid for parent in self._pids for pid in machine.family(parent)])

    def stop(self) -> None:
        """Stop them."""
        self._embedded.stop()


def catalogue(models: Sequence[str]) -> dict[str, Any]:
    """Return a catalogue with one plan, without limits: one user asks more in a minute than any allows."""
    return {
        "plans": [{"id": "pro", "title": "Pro", "default": True}],
        "models": [
            {
                "id": model,
                "provider": _PROVIDERS.get(model.partition("/")[0], "openai"),
                "name": model,
                "title": model,
                "plans": ["pro"],
                "max_output_tokens": 4096,
                "context_characters": 20_000 if model.startswith("context/") else 200_000,
            }
            for model in models
        ],
    }
