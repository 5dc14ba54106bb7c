"""Starts and stops the embedded stores for a server or for the tests."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parent.parent


class EmbeddedError(Exception):
    """The embedded stores could not be started. The message says why."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs and process ids of the embedded stores. A store that was not requested has "" and 0."""

    database_url: str
    valkey_url: str
    postgres_pid: int
    valkey_pid: int


class EmbeddedStores:
    """A Postgres and a Valkey with their data in `folder`, which stop with this process at the latest.

    `volatile` is for tests: it is faster, nothing survives a crash, and the folder is removed at the end. The
    constructor returns at once; `wait` returns when the stores are ready.
    """

    def __init__(
        self, folder: Path, *, postgres: bool = True, valkey: bool = True, volatile: bool = False
    ) -> None:
        # In a session of its own, since Ctrl-C must reach the server only, which then stops its stores.
        flags = {"--postgres": postgres, "--valkey": valkey, "--volatile": volatile}
        self._addresses: Addresses | None = None
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "local.stores",
                str(folder.absolute()),
                *(f for f, on in flags.items() if on),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
        )

    def wait(self) -> Addresses:
        """Wait until the stores are ready, and return their addresses. Raises `EmbeddedError`."""
        if self._addresses is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline() or b'{"error": "The stores ended at once."}'
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                self.stop()
                raise EmbeddedError(answer["error"])
            postgres, valkey = answer.get("postgres", {}), answer.get("valkey", {})
            self._addresses = Addresses(
                database_url=postgres.get("url", ""),
                valkey_url=valkey.get("url", ""),
                postgres_pid=postgres.get("pid", 0),
                valkey_pid=valkey.get("pid", 0),
            )
        return self._addresses

    def stop(self) -> None:
        """Stop the stores, and wait until their processes have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The end of its standard input tells `local.stores` to stop.
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
