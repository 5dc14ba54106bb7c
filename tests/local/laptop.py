"""Starts the real `python -m local.dev` for tests, and sees what it leaves behind."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
_OWN = ("DATABASE_URL", "VALKEY_URL", "KEY_SECRET", "AUTH_MODE", "ALLOW_TRUSTED", "LOG_LEVEL")


class Laptop:
    """One `python -m local.dev`, started when entered; left without a trace."""

    def __init__(
        self,
        data: Path,
        *,
        port: int | str = 0,
        env: Mapping[str, str] | None = None,
        parent: bool = False,
        catalogue: Path | None = None,
        parent_folder: Path | None = None,
    ) -> None:
        command = [sys.executable, "-m", "local.dev", f"--port={port}", "--data", str(data)]
        if catalogue is not None:
            command += ["--catalogue", str(catalogue)]
        if parent:
            # A shell that neither becomes the server nor passes signals on, as make may be.
            command = ["sh", "-c", '"$@" --follow-parent & wait', "sh", *command]
        clean = {name: value for name, value in os.environ.items() if name not in _OWN}
        path = os.pathsep.join((str(ROOT), str(ROOT / "layers" / "common")))
        runs_in = parent_folder or data.parent
        runs_in.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            command,
            cwd=runs_in,
            env=clean | {"PYTHONPATH": path} | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ready(self, seconds: float = 60.0) -> str:
        """Return the URL once the server says it is ready."""
        line = self._lines.get(timeout=seconds)
        found = re.match(r"Parley is ready: (http://127\.0\.0\.1:\d+) ", line)
        assert found, f"{line!r} instead of the ready line; {self.errors() if not line else ''}"
        return found[1]

    def errors(self) -> str:
        """Return what the server wrote to standard error, after it ended."""
        assert self.process.stderr is not None
        self.process.wait(60)
        return self.process.stderr.read()

    def family(self) -> list[psutil.Process]:
        """Return the process and all below it."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def server(self) -> psutil.Process:
        """Return the process that serves."""
        return next(p for p in self.family() if "local.dev" in p.cmdline() and p.name() != "sh")

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        family = self.family() if self.process.poll() is None else []
        kill_all(family)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


def kill_all(family: list[psutil.Process]) -> None:
    """Kill them; some may be gone by then, since their parents are."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def gone(family: list[psutil.Process], *, seconds: float = 30) -> bool:
    """Tell whether all of them end; with 0 seconds, whether they have."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
