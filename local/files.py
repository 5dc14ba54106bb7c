"""What the data folder keeps: locks, secrets, logs."""

import fcntl
import os
import secrets
import socket
import time
from pathlib import Path

_LOG_BYTES = 5_000_000


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, if it is not there yet."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def keep_secret(path: Path) -> str:
    """Return the secret kept in a file, and make one of 256 random bits at the first call."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if secret := path.read_text("ascii").strip():
            return secret
        descriptor = os.open(path, os.O_WRONLY)  # a crash came between the two lines below
    secret = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    return secret


def lock(path: Path, *, seconds: float = 0.0) -> int | None:
    """Lock a file for as long as the returned descriptor is open, here or in a child.

    Returns None when another process still has it after so many seconds.
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
    """Return the path of a log, emptied if it has grown large."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.write_bytes(b"")
    return path


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on; somebody else may take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
