"""Runs Parley on a laptop in one process: `python -m local.dev --port 8000 --data .data`."""

import argparse
import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import uvicorn

from local import environment
from local.allowed_hosts import AllowedHosts
from local.embedded import Addresses, EmbeddedError, EmbeddedStores
from local.loop import new_event_loop
from local.running import DataFolder, DataFolderError, Running
from local.seed import CATALOGUE, seed
from parley.http_server.protocol import HttpProtocol
from parley.http_server.security_headers import SecurityHeaders
from parley.postgres.catalogue import CatalogueError
from parley.postgres.migrate import migrate
from parley.settings import Settings, SettingsError
from parley.valkey.client import SHARDED, is_sharded

# Seconds that streams may still run after the signal. Then they end as truncated and their replies are saved.
_GRACE_SECONDS = 2
_PARENT_SECONDS = 0.5
# The laptop's server believes any userId. A page elsewhere whose name is made to resolve to this machine (DNS
# rebinding) has the server's origin in the browser's eyes, but it cannot change the name in `Host`.
_NAMES = ["127.0.0.1", "localhost"]


class StartError(Exception):
    """The server cannot start. The message gives the cause and a remedy."""


def main() -> int:
    """Serve until Ctrl-C, SIGTERM or SIGHUP, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.dev", description=__doc__)
    parser.add_argument("--port", default="8000", help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded stores")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="file of the plans and models")
    parser.add_argument("--follow-parent", action="store_true", help="stop when the parent process is gone")
    options = parser.parse_args()
    try:
        with contextlib.ExitStack() as cleanup:
            # In asyncio's own loop: psycopg's asynchronous connections close sockets that the loop still
            # watches, which would abort a process on uvloop.
            with asyncio.Runner() as runner:
                listener = runner.run(_prepare(options.port, options.data, options.catalogue, cleanup))
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(_serve(listener, options.data, follow_parent=options.follow_parent))
    except (StartError, EmbeddedError, SettingsError, DataFolderError, environment.EnvFileError) as error:
        print(f"Parley cannot start: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0  # stopped while it was starting
    return 0


async def _prepare(port: str, data: Path, catalogue: Path, cleanup: contextlib.ExitStack) -> socket.socket:
    """Start the stores, migrate and seed the database, and return the listening socket.

    `cleanup` stops the stores and closes the socket. Raises `StartError`, `EmbeddedError`, `EnvFileError`,
    `DataFolderError` and `SettingsError`.
    """
    _Stop()
    environment.prepare(Path.cwd())
    # Before anything is made for settings that could not serve.
    Settings.from_env()
    shared = bool(os.environ.get("DATABASE_URL"))
    embed_valkey = "VALKEY_URL" not in os.environ
    folder = DataFolder(data)
    if (not shared or embed_valkey) and not folder.claim():
        raise StartError(_in_use(folder))
    listener = cleanup.enter_context(_listen(port))
    if not shared or embed_valkey:
        stores = EmbeddedStores(folder.path / "stores", postgres=not shared, valkey=embed_valkey)
        cleanup.callback(stores.stop)
        addresses = await asyncio.to_thread(stores.wait)
        _point_at(addresses)
    if not embed_valkey:
        await _check_valkey(os.environ["VALKEY_URL"])
    environment.set_key_secret(folder.path, shared=shared)
    await _fill(os.environ["DATABASE_URL"], catalogue)
    if not shared or embed_valkey:
        database, valkey = os.environ["DATABASE_URL"], os.environ.get("VALKEY_URL", "")
        folder.announce(Running(os.getpid(), _url(listener), database, valkey))
        cleanup.callback(folder.withdraw)
    return listener


async def _serve(listener: socket.socket, data: Path, *, follow_parent: bool) -> None:
    stop = _Stop()
    from local.server import app  # noqa: PLC0415 - it reads the settings

    server = _Server(
        uvicorn.Config(
            SecurityHeaders(AllowedHosts(app, _NAMES)),  # a refusal has the fields of every response
            http=HttpProtocol, ws="none", lifespan="on", log_config=None, access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        ),
        ready=f"Parley is ready: {_url(listener)} (data in {data}; Ctrl-C stops it)",
    )  # fmt: skip
    stop.server = server
    following = asyncio.create_task(_follow_parent(stop)) if follow_parent else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if following is not None:
            following.cancel()
    if not server.started:
        raise StartError("the application did not start; its log above says why.")


def _url(listener: socket.socket) -> str:
    return "http://{}:{}".format(*listener.getsockname())


class _Stop:
    """Handles signals: cancels the start, or shuts down the server once it exists."""

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self)

    def __call__(self) -> None:
        if self.server is not None:
            self.server.force_exit = self.server.should_exit  # the second signal does not wait for streams
            self.server.should_exit = True
        elif self._starting is not None:
            self._starting.cancel()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `_Stop`, and prints `ready` once it serves."""

    def __init__(self, config: uvicorn.Config, *, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            print(self._ready, flush=True)


def _listen(given: str) -> socket.socket:
    if not (given.isascii() and given.isdecimal() and int(given) <= 65535):
        raise StartError(f"PORT={given} must be a number from 0 to 65535; 0 takes a free one.")
    port = int(given)
    try:
        return socket.create_server(("127.0.0.1", port), backlog=2048)
    except OSError as error:
        why = "is not free" if error.errno == errno.EADDRINUSE else "cannot be used"
        raise StartError(
            f"port {port} of 127.0.0.1 {why} ({error.strerror or error});"
            " choose another one, as in `make dev PORT=8001`."
        ) from None


def _in_use(folder: DataFolder) -> str:
    other = folder.running()
    who = f"a Parley that serves {other.url} (process {other.pid})" if other else "another Parley"
    return f"{folder.path} is in use by {who}; choose another folder, as in `make dev DATA=.data2 PORT=8001`."


def _point_at(addresses: Addresses) -> None:
    if addresses.database_url:
        os.environ["DATABASE_URL"] = addresses.database_url
    if addresses.valkey_url:
        os.environ["VALKEY_URL"] = addresses.valkey_url


async def _check_valkey(url: str) -> None:
    # Only this is refused: a Valkey that is away may come back, and Parley serves without one.
    if url and await is_sharded(url, prefix="parley", timeout=2):
        raise StartError(SHARDED)


async def _fill(database_url: str, catalogue: Path) -> None:
    try:
        await migrate(database_url)
        await seed(database_url, catalogue)
    except psycopg.OperationalError as error:
        raise StartError(f"the database does not answer: {error}") from None
    except psycopg.Error as error:
        # Not its text, which may quote the URL with its password.
        raise StartError(
            f"the database of DATABASE_URL cannot be used ({type(error).__name__}): it must be a URL of a"
            " Postgres whose user may make tables; behind PgBouncer DATABASE_PREPARE must be false."
        ) from None
    except OSError as error:
        raise StartError(f"the catalogue {catalogue} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, CatalogueError) as error:
        raise StartError(f"the catalogue {catalogue} makes no sense: {error}") from None


async def _follow_parent(stop: _Stop) -> None:
    """Stop the server when the parent process has died."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel sets no event
        await asyncio.sleep(_PARENT_SECONDS)
    stop()


if __name__ == "__main__":
    sys.exit(main())
