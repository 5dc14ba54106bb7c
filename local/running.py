"""The data folder's record of the server that uses it, and of the URLs of its stores."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from local.files import lock, private_folder


@dataclass(frozen=True, slots=True)
class Running:
    """A running server: its process id, its own URL and the URLs of its stores."""

    pid: int
    url: str
    database_url: str
    valkey_url: str


class DataFolderError(ValueError):
    """The data folder cannot be one. The message names the setting and says why."""


class DataFolder:
    """A data folder, which one server at a time may use."""

    def __init__(self, path: Path) -> None:
        """Make the folder unless it exists. Raises `DataFolderError` if it is none that can be written."""
        try:
            self.path = private_folder(path.absolute())
            descriptor, probe = tempfile.mkstemp(dir=self.path)
            os.close(descriptor)
            os.unlink(probe)
        except OSError as error:
            raise DataFolderError(
                f"DATA={path} must be a folder that can be made or written: {error.strerror}."
            ) from None
        self._note = self.path / "server.json"

    def claim(self) -> bool:
        """Lock the folder until this process ends. Return False if another server holds the lock.

        The kernel releases the lock, so a killed process leaves none behind.
        """
        return lock(self.path / "server.lock") is not None

    def announce(self, running: Running) -> None:
        """Record that the server is running. Only the owner may read the file: its URLs hold passwords."""
        # Written beside it and renamed, so that a reader never sees a part of the file.
        draft = self._note.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(running)))
        os.replace(draft, self._note)

    def withdraw(self) -> None:
        """Remove the record. Call it before the stores stop."""
        self._note.unlink(missing_ok=True)

    def running(self) -> Running | None:
        """Return the record of the folder's server; None while the server is starting."""
        try:
            return Running(**json.loads(self._note.read_text()))
        except FileNotFoundError:
            return None
