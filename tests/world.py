"""A world for each test: real stores, a fake provider, and as many servers and clients as it asks for."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from parley.domain.ids import SessionIds
from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from parley.usecases.purge import Purged, purge
from parley.valkey.log import ValkeyLog
from parley.valkey.macs import Macs
from tests.client import PROVIDER_KEY, Client, Secrets
from tests.processes import KEY_SECRET, Fake, FreshServer, Server

# Makes ids as the servers do: an id of this that is in no database is looked up.
SESSION_IDS = SessionIds(KEY_SECRET)
# Makes MACs as the servers do.
MACS = Macs(KEY_SECRET)


def add_model(database_url: str, model: str, name: str = "", provider: str = "openai") -> None:
    """Put a model of the fake provider into the catalogue, for every plan."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into models (id, provider, name, title, max_output_tokens, context_characters)"
            " values (%s, %s, %s, %s, 1000, 20000) on conflict do nothing",
            [model, provider, name or model, model],
        )
        connection.execute("insert into plan_models select id, %s from plans on conflict do nothing", [model])


async def run_purge(
    database_url: str, valkey_url: str, *, batch: int = 100, days: int = 0, grace: float = 0.0
) -> Purged:
    """Run the purge once on these stores."""
    store = PostgresStore(Pool(database_url, size=1, timeout=30), owner="purge", session_seconds=600)
    log = ValkeyLog(valkey_url, macs=MACS, prefix="parley", timeout=1, lease_seconds=5, cache_seconds=60)
    try:
        return await purge(store, log, batch=batch, retention_days=days, grace_seconds=grace)
    finally:
        await log.close()
        await store.close()


class World:
    """Stores, a fake provider, and as many servers as a test asks for."""

    def __init__(self, folder: Path, database_url: str, valkey_url: str, fake: Fake) -> None:
        self.folder = folder
        self.database_url = database_url
        self.valkey_url = valkey_url
        self.fake = fake
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.secrets = Secrets()
        self._common: dict[tuple[object, ...], Server] = {}
        add_model(database_url, "fake")
        self.limit()

    def limit(self, **limits: int) -> None:
        """Give every plan these limits and no other; tests ask more in a minute than people do."""
        names = ("requests_per_minute", "concurrent_streams", "tokens_per_day")
        changes = ", ".join(f"{name} = %s" for name in names)
        self.sql(f"update plans set {changes}", *(limits.get(name) for name in names))

    def fresh_server(self, **settings: str) -> Server:
        """Start another server, in an interpreter of its own."""
        return self._serve(FreshServer, settings)

    def server(self, **settings: str) -> Server:
        """Start another server."""
        return self._serve(Server, settings)

    def _serve(self, kind: type[Server], settings: dict[str, str]) -> Server:
        defaults = {
            "DATABASE_URL": self.database_url,
            "VALKEY_URL": self.valkey_url,
            "OPENAI_BASE_URL": f"{self.fake.url}/v1",
            "OPENAI_API_KEY": PROVIDER_KEY,
            "ANTHROPIC_BASE_URL": self.fake.url,
            "ANTHROPIC_API_KEY": PROVIDER_KEY,
            "PROVIDER_BACKOFF_SECONDS": "0.05",
            # A machine may have much else to do.
            "VALKEY_TIMEOUT_MS": "1000",
        }
        server = kind(self.folder, **(defaults | settings))
        self.servers.append(server)
        return server

    def common_server(self, number: int = 0, **settings: str) -> Server:
        """Return a server that others use too, who name the same number and settings."""
        name = (number, *sorted(settings.items()))
        if name not in self._common:
            self._common[name] = self.server(**settings)
        return self._common[name]

    def client(self, server: Server, user: str = "demo-pro") -> Client:
        """Return a client of a server."""
        client = Client(server.url, user, self.secrets)
        self.clients.append(client)
        return client

    def model(self, model: str, provider: str = "openai", **script: Any) -> str:
        """Add a model whose replies are scripted; return its id."""
        add_model(self.database_url, model, provider=provider)
        if script:
            self.fake.script(model, **script)
        return model

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        """Run a statement in the database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    async def purge(self, *, batch: int = 100, days: int = 0, grace: float = 0.0) -> Purged:
        """Run the purge, as a process of its own would."""
        return await run_purge(self.database_url, self.valkey_url, batch=batch, days=days, grace=grace)

    async def leave(self) -> None:
        """Close every client, and every server that is not common."""
        clients, self.clients = self.clients, []
        for client in clients:
            await client.close()
        common = list(self._common.values())
        leaving = [server for server in self.servers if server not in common]
        for server in leaving:
            server.close()
        self.servers = common
        self.secrets.check(leaving)

    async def close(self) -> None:
        """End everything but the stores."""
        self._common = {}
        await self.leave()


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """Return a fake provider, shared by a worker's tests."""
    provider = Fake(tmp_path_factory.mktemp("fake"))
    yield provider
    provider.close()


@pytest.fixture
async def world(tmp_path: Path, demo_database_url: str, valkey_url: str, fake: Fake) -> AsyncIterator[World]:
    """Return an empty world."""
    made = World(tmp_path, demo_database_url, valkey_url, fake)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def _module_world(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_valkey_url: str, fake: Fake
) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("module"), module_database_url, module_valkey_url, fake)
    yield made
    for server in made.servers:
        server.close()
    made.secrets.check(made.servers)


@pytest.fixture
async def shared(_module_world: World) -> AsyncIterator[World]:
    """Return the world that a module's tests share: they tell themselves apart by models and prompts."""
    yield _module_world
    await _module_world.leave()
