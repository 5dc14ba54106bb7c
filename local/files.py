"""Files of the data folder: locks, secrets and logs; and free ports."""

import fcntl
import os
import secrets
import socket
import time
from pathlib import Path

_LOG_BYTES = 5_000_000


def private_folder(path: Path) -> Path:
    """Make the folder with mode 0700 unless it exists, and return its path."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def keep_secret(path: Path) -> str:
    """Return the secret in the file. The first call generates it from 256 random bits."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if secret := path.read_text("ascii").strip():
            return secret
        descriptor = os.open(path, os.O_WRONLY)  # an empty file: an earlier process crashed before the write
    secret = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    return secret


def lock(path: Path, *, seconds: float = 0.0) -> int | None:
    """Lock a file, and return its descriptor; None if another process holds the lock after `seconds`.

    The lock is held while the descriptor is open, in this process or in a child that inherited it.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def log_file(path: Path) -> Path:
    """Return the path of a log file, after emptying a file of more than 5 MB."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.write_bytes(b"")
    return path


def free_port() -> int:
    """Return a free port of 127.0.0.1. Another process may take it before the caller does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
