"""Fixtures every test may use: a real Postgres and a real Valkey, started once for the whole run.

`database_url`       an own, migrated, empty database for this test
`demo_database_url`  the same with the laptop's plans, users and models
`valkey_url`         an own, empty Valkey database for this test (a number, so SELECT keeps tests apart,
                     but publish/subscribe, CONFIG and DEBUG reach every test: use `own_valkey` for those)
`own_valkey`         a Valkey of this test's own, with its process id: freeze it, fill it, kill it
`own_postgres`       a Postgres of this test's own, migrated; takes a second

The stores belong to the process that runs pytest (with xdist, the one that starts the workers) and end
when it does, however it ends. A run that asks for none of them starts none, except with xdist.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import settings

from local.embedded import Addresses, EmbeddedStores
from local.seed import seed
from parley.postgres.migrate import migrate

# No clock decides a test: an example is not wrong because the machine was busy.
settings.register_profile("parley", deadline=None)
settings.load_profile("parley")

pytest.register_assert_rewrite("tests.client", "tests.processes")
pytest_plugins = ["tests.world"]

_STORES = pytest.StashKey[EmbeddedStores]()
_numbers = itertools.count()


def _start(config: pytest.Config) -> EmbeddedStores:
    if _STORES not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="parley-tests-", dir=_memory()))
        config.stash[_STORES] = EmbeddedStores(folder, volatile=True)
    return config.stash[_STORES]


def _memory() -> str | None:
    """Return a folder in memory, where a database is copied in 12 ms instead of 25 to 160."""
    shared = "/dev/shm"
    roomy = os.path.isdir(shared) and shutil.disk_usage(shared).free > 1_000_000_000
    return shared if roomy and os.access(shared, os.W_OK) else None


class _Xdist:
    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where the stores are."""
        node.workerinput["stores"] = asdict(_start(node.config).wait())


def pytest_configure(config: pytest.Config) -> None:
    """Start the stores early where workers will need their addresses."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Xdist())
        if getattr(config.option, "tx", None) and not config.option.collectonly:
            _start(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the stores."""
    if _STORES in config.stash:
        config.stash[_STORES].stop()


@pytest.fixture(scope="session")
def stores(pytestconfig: pytest.Config) -> Addresses:
    """Return where the run's Postgres and Valkey are."""
    given = getattr(pytestconfig, "workerinput", {}).get("stores")
    return Addresses(**given) if given else _start(pytestconfig).wait()


@pytest.fixture(scope="session")
def _admin(stores: Addresses) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stores.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def _empty_template(_admin: psycopg.Connection, stores: Addresses) -> str:
    return _template(_admin, stores, "empty")


@pytest.fixture(scope="session")
def _demo_template(_admin: psycopg.Connection, stores: Addresses) -> str:
    return _template(_admin, stores, "demo")


def _template(admin: psycopg.Connection, stores: Addresses, name: str) -> str:
    """Make a template database, in whichever worker comes first."""
    admin.execute("select pg_advisory_lock(1)")
    try:
        if admin.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            draft = _database(stores, f"{name}_draft")
            admin.execute(f"create database {name}_draft")
            asyncio.run(_fill(draft, demo=name == "demo"))
            admin.execute(f"alter database {name}_draft rename to {name}")
    finally:
        admin.execute("select pg_advisory_unlock(1)")
    return name


async def _fill(database_url: str, *, demo: bool) -> None:
    await migrate(database_url)
    if demo:
        await seed(database_url)


def _database(stores: Addresses, name: str) -> str:
    return stores.database_url.rpartition("/")[0] + "/" + name


def _copy(admin: psycopg.Connection, stores: Addresses, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin.execute(f"create database {name} template {template} strategy file_copy")
    yield _database(stores, name)
    admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def database_url(_admin: psycopg.Connection, stores: Addresses, _empty_template: str) -> Iterator[str]:
    """Return the URL of a migrated database without rows, dropped after the test."""
    yield from _copy(_admin, stores, _empty_template)


@pytest.fixture
def demo_database_url(_admin: psycopg.Connection, stores: Addresses, _demo_template: str) -> Iterator[str]:
    """Return the URL of a migrated database with the demo users, plans and models."""
    yield from _copy(_admin, stores, _demo_template)


@pytest.fixture(scope="module")
def module_database_url(_admin: psycopg.Connection, stores: Addresses, _demo_template: str) -> Iterator[str]:
    """Return the URL of a database like `demo_database_url` that the tests of a module share."""
    yield from _copy(_admin, stores, _demo_template)


@pytest.fixture
def own_empty_database(_admin: psycopg.Connection, stores: Addresses) -> Iterator[str]:
    """Return the URL of a database with nothing in it, not even a schema."""
    yield from _copy(_admin, stores, "template0")


@pytest.fixture(scope="session")
def _valkey(pytestconfig: pytest.Config, stores: Addresses) -> Iterator[tuple[str, redis.Redis]]:
    worker = getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0")
    url = stores.valkey_url.rpartition("/")[0] + f"/{int(worker.removeprefix('gw')) + 1}"
    with redis.Redis.from_url(url) as client:
        yield url, client


@pytest.fixture
def valkey_url(_valkey: tuple[str, redis.Redis]) -> str:
    """Return the URL of an empty Valkey database."""
    url, client = _valkey
    client.flushdb()
    return url


@pytest.fixture(scope="module")
def module_valkey_url(_valkey: tuple[str, redis.Redis]) -> str:
    """Return the URL of a Valkey database that was empty when the module began."""
    url, client = _valkey
    client.flushdb()
    return url


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Addresses]:
    """Return a Valkey that only this test uses."""
    with EmbeddedStores(tmp_path / "own-valkey", postgres=False, volatile=True) as own:
        yield own.wait()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Addresses]:
    """Return a migrated Postgres that only this test uses."""
    with EmbeddedStores(tmp_path / "own-postgres", valkey=False, volatile=True) as own:
        addresses = own.wait()
        asyncio.run(migrate(addresses.database_url))
        yield addresses
