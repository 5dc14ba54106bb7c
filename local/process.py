"""Starts, awaits and stops the child processes of the embedded stores."""

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
    """A child process failed. The message has its last output."""


def run(command: Sequence[str | Path], *, text: str = "") -> None:
    """Run a command as the unprivileged account, with `text` as its standard input.

    Raises `ProcessError` for an exit code other than 0.
    """
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
    """A server on a free port of 127.0.0.1: one child process with a log file.

    `ask` is the signal for a clean shutdown. On Linux the kernel also sends it to the child when this process
    is killed. `grace_seconds` is the time for a clean shutdown. The child keeps the file descriptor `keep`
    open, which holds the lock on that file while the child lives.
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
        """Start the server. Raises `ProcessError`."""

    @abstractmethod
    def launch(self) -> None:
        """Choose a free port, and start the server's process on it."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether the server accepts connections."""

    @abstractmethod
    def url(self) -> str:
        """Return the server's URL, with its password."""

    @property
    def pid(self) -> int:
        """The process id, or 0 before the start."""
        return self._process.pid if self._process else 0

    def spawn(self, command: Sequence[str | Path], *, text: str = "") -> None:
        """Start the child process, with `text` as its standard input and the log as its output."""
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
            pass  # the child ended at once, and `wait` reports why

    def wait(self, seconds: float = 60.0) -> str:
        """Wait until the server is ready, and return its URL.

        Raises `ProcessError` if the process ends or is not ready after `seconds`.
        """
        deadline = time.monotonic() + seconds
        attempt = 1
        while not self.ready():
            time.sleep(0.005)
            if self.ended():
                # Between `free_port` and the server's bind, another process may have taken the port.
                if attempt == _ATTEMPTS or "Address already in use" not in self.said():
                    raise ProcessError(f"{self.name} did not start:\n{self.said()}")
                attempt += 1
                self.launch()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {seconds:.0f} s:\n{self.said()}")
        return self.url()

    def ended(self) -> bool:
        """Return whether the process has ended or was never started."""
        return self._process is None or self._process.poll() is not None

    def said(self) -> str:
        """Return the last eight lines that the process has logged."""
        with self.log.open("rb") as log:
            log.seek(self._logged)
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-8:])

    def ask_to_end(self) -> None:
        """Send the signal for a clean shutdown, once, without waiting for the end."""
        if self._process is not None and not self._asked and not self.ended():
            self._asked = True
            self._process.send_signal(self.ask)

    def stop(self) -> None:
        """Shut the process down cleanly, and kill it after `grace_seconds`."""
        self.ask_to_end()
        if self._process is not None:
            try:
                self._process.wait(self.grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _environment() -> dict[str, str]:
    # Not the parent's environment: PGPORT and its like would change Postgres, and the providers' keys are
    # secrets that the stores do not need.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
