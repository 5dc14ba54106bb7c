"""How one laptop server tells others that it uses a data folder, and where its stores are."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from local.files import lock, private_folder


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up."""

    pid: int
    url: str
    database_url: str
    valkey_url: str


class DataFolder:
    """A server's data folder; one server at a time has it."""

    def __init__(self, path: Path) -> None:
        self.path = private_folder(path.absolute())
        self._note = self.path / "server.json"

    def claim(self) -> bool:
        """Take the folder until this process ends, however it ends; False if another server has it."""
        return lock(self.path / "server.lock") is not None

    def announce(self, running: Running) -> None:
        """Write down that the server is up; the URLs hold passwords, so only its owner may read it."""
        draft = self._note.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(running)))
        os.replace(draft, self._note)

    def withdraw(self) -> None:
        """Forget the note, before the stores go."""
        self._note.unlink(missing_ok=True)

    def running(self) -> Running | None:
        """Return what the folder's server wrote down; None while it is still starting."""
        try:
            return Running(**json.loads(self._note.read_text()))
        except FileNotFoundError:
            return None
