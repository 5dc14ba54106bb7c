"""A function of a build as Lambda runs it: a process that answers one event after the other."""

import json
import os
import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import machine
from bench.builds import Build
from bench.driver import BadAnswer

_INVOKE = Path(__file__).with_name("invoke.py")
_ANSWER_SECONDS = 60.0


def environment(build: Build, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of a build's functions: no tree is on the path, only the layer."""
    path = f"{build.python.parent}:{os.environ['PATH']}"
    return env | {"PYTHONPATH": str(build.deployed / "layer"), "PATH": path, "LOG_LEVEL": "WARNING"}


class Function:
    """A process with the handler of one function; it imports it for its first event."""

    def __init__(self, build: Build, name: str, env: dict[str, str], log: Path) -> None:
        self._build = build
        self._name = name
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [build.python, "-P", _INVOKE, build.deployed / "functions" / name],
                env=environment(build, env),
                cwd=build.root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                bufsize=0,
                preexec_fn=machine.pin(machine.SERVER_CORE),  # noqa: PLW1509 - the main thread forks
            )

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Have an event answered: `answer`, `seconds`, `processor`; raises `BadAnswer`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        try:
            self._process.stdin.write(json.dumps(event).encode() + b"\n")
            while not line.endswith(b"\n"):
                ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_SECONDS)
                part = os.read(self._process.stdout.fileno(), 65_536) if ready else b""
                if not part:
                    raise BadAnswer(f"{self._name}: no answer: {self._said()}")
                line += part
        except BrokenPipeError:
            raise BadAnswer(f"{self._name}: it ended: {self._said()}") from None
        said: dict[str, Any] = json.loads(line)
        if not Path(said["parley"]).is_relative_to(self._build.deployed):
            raise BadAnswer(f"{self._name}: answered by {said['parley']}, which is another build's")
        return said

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-300:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
