"""The Postgres and the Valkey that all share, and what is put into them before anything is measured."""

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import psycopg

from bench import machine
from local.embedded import EmbeddedStores
from local.seed import seed
from parley.adapters.migrations import migrate

_PROVIDERS = {"claude": "anthropic", "grok": "xai"}
_PEERS_SCHEMA = Path(__file__).parent / "peers/schema.sql"


class Stores:
    """Embedded stores for one run."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedStores(folder / "stores", volatile=True)
        self.database_url = ""
        self.valkey_url = ""
        self._pids: list[int] = []

    async def fill(self, models: tuple[str, ...], users: tuple[str, ...]) -> None:
        """Wait until they answer; make the tables and put the models and the users in."""
        addresses = self._embedded.wait()
        self.database_url, self.valkey_url = addresses.database_url, addresses.valkey_url
        self._pids = [addresses.postgres_pid, addresses.valkey_pid]
        await migrate(self.database_url)
        await seed(self.database_url)
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(_PEERS_SCHEMA.read_bytes())
            # One user asks more in a minute than any plan allows, and no peer has plans.
            limits = ("requests_per_minute", "concurrent_streams", "tokens_per_day")
            connection.execute(f"update plans set {', '.join(f'{name} = null' for name in limits)}".encode())
            for user in users:
                connection.execute("insert into users (id, plan_id) values (%s, 'pro')", [user])
            for model in models:
                family = model.partition("/")[0]
                provider = _PROVIDERS.get(family, "openai")
                context = 20_000 if family == "context" else 200_000
                connection.execute(
                    "insert into models (id, provider, name, title, max_output_tokens, context_characters)"
                    " values (%s, %s, %s, %s, 4096, %s)",
                    [model, provider, model, model, context],
                )
                connection.execute("insert into plan_models select id, %s from plans", [model])

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
