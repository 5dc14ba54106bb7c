"""The child processes of the embedded stores."""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from local.account import preparation

_ATTEMPTS = 3


class ProcessError(Exception):
    """A child process failed; the message says what it said last."""


def run(command: Sequence[str | Path], *, text: str = "") -> None:
    """Run a command to its end as the unprivileged account; raises `ProcessError`."""
    done = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=_environment(),
        preexec_fn=preparation(signal.SIGKILL),
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ProcessError(f"{Path(command[0]).name} failed: {said}")


class Service(ABC):
    """A server on a free port of 127.0.0.1, as one child with a log file.

    `ask` is the signal that asks it to end well; it is also what it gets when this process is killed,
    on Linux. `keep` is a file descriptor that the child keeps open, so that a lock on it is held for
    as long as the child lives.
    """

    name: str
    ask: signal.Signals
    grace_seconds: float

    def __init__(self, log: Path, keep: int) -> None:
        self.log = log
        self.port = 0
        self._keep = keep
        self._logged = 0
        self._asked = False
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the server; raises `ProcessError`."""

    @abstractmethod
    def launch(self) -> None:
        """Take a free port and start a process on it."""

    @abstractmethod
    def ready(self) -> bool:
        """Tell whether the server answers."""

    @abstractmethod
    def url(self) -> str:
        """Return where the server is."""

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def spawn(self, command: Sequence[str | Path], *, text: str = "") -> None:
        """Start the process, with `text` as its standard input."""
        with self.log.open("ab") as output:
            self._logged = output.tell()
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                pass_fds=(self._keep,),
                preexec_fn=preparation(self.ask),  # noqa: PLW1509 - this process has one thread
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it ended at once, and `wait` tells why

    def wait(self, seconds: float = 60.0) -> str:
        """Return the server's URL once it answers; raises `ProcessError` when it ends or takes longer."""
        deadline = time.monotonic() + seconds
        attempt = 1
        while not self.ready():
            time.sleep(0.005)
            if self.ended():
                if attempt == _ATTEMPTS or "Address already in use" not in self.said():
                    raise ProcessError(f"{self.name} did not start:\n{self.said()}")
                attempt += 1
                self.launch()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {seconds:.0f} s:\n{self.said()}")
        return self.url()

    def ended(self) -> bool:
        """Tell whether the process has ended."""
        return self._process is None or self._process.poll() is not None

    def said(self) -> str:
        """Return the last lines of what the process has logged."""
        with self.log.open("rb") as log:
            log.seek(self._logged)
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-8:])

    def ask_to_end(self) -> None:
        """Ask the process to end well, once, without waiting for it."""
        if self._process is not None and not self._asked and not self.ended():
            self._asked = True
            self._process.send_signal(self.ask)

    def stop(self) -> None:
        """Ask the process to end well, and kill it when its grace is over."""
        self.ask_to_end()
        if self._process is not None:
            try:
                self._process.wait(self.grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _environment() -> dict[str, str]:
    # Neither PGPORT and its kin nor the keys of providers are the stores' business.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
