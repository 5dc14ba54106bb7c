"""Runs the purge once on the data folder of `make dev`, whether its server is running or not."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import environment
from local.embedded import EmbeddedError, EmbeddedStores
from local.running import DataFolder, DataFolderError
from parley import bootstrap
from parley.postgres.migrate import migrate
from parley.settings import Settings, SettingsError
from parley.usecases.purge import purge


def main() -> int:
    """Run the purge, print the counts and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.purge", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".data"))
    options = parser.parse_args()
    try:
        environment.prepare(Path.cwd())
        Settings.from_env()
        with _stores(options.data):
            counts = asyncio.run(_purge())
    except (EmbeddedError, SettingsError, DataFolderError, environment.EnvFileError) as error:
        sys.exit(f"The purge cannot run: {error}")
    for name, count in counts.items():
        print(f"{name.replace('_', ' '):18} {count}")
    return 0


@contextmanager
def _stores(data: Path) -> Iterator[None]:
    folder = DataFolder(data)
    shared = bool(os.environ.get("DATABASE_URL"))
    environment.set_key_secret(folder.path, shared=shared)
    if shared:
        yield
    elif folder.claim():
        with EmbeddedStores(folder.path / "stores") as stores:
            addresses = stores.wait()
            os.environ["DATABASE_URL"] = addresses.database_url
            os.environ.setdefault("VALKEY_URL", addresses.valkey_url)
            yield
    else:
        running = folder.running()
        if running is None:
            sys.exit(f"A Parley is just starting on {data}; try again in a moment.")
        os.environ["DATABASE_URL"] = running.database_url
        os.environ["VALKEY_URL"] = running.valkey_url
        yield


async def _purge() -> dict[str, int]:
    settings = bootstrap.settings()
    await migrate(settings.database_url)
    services = bootstrap.build(settings)
    try:
        done = await purge(
            services.store, services.log, batch=settings.purge_batch, retention_days=settings.retention_days
        )
    finally:
        await services.close()
    return done.counts()


if __name__ == "__main__":
    sys.exit(main())
