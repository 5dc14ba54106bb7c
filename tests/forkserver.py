"""Servers for the tests in a tenth of the time: forked from a process that has everything imported.

`Forked` is a server's process as `subprocess.Popen` would show it. One forkserver serves a process that runs
tests, and ends with it; so do the servers that it still has.
"""

import atexit
import functools
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


class Forked:
    """A process of the forkserver's."""

    def __init__(self, arguments: list[str], env: dict[str, str], out: Path, log: Path) -> None:
        """Run uvicorn with `arguments`; `out` takes its standard output, `log` its standard error."""
        self._forkserver = _forkserver()
        self.pid = self._forkserver.ask(do="fork", arguments=arguments, env=env, out=str(out), log=str(log))
        # Its number stays its own until the forkserver has taken leave of it.
        self._watch = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, or None."""
        return self._end(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        code = self._end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked server", timeout or 0.0)
        return code

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._watch], [], [], timeout)[0]:
            self.returncode = self._forkserver.ask(do="reap", pid=self.pid)
            os.close(self._watch)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Forkserver:
    """The other end of `main`."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(_ROOT / "layers" / "common"), str(_ROOT)])
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver"],
            cwd=_ROOT,
            env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
            | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self._close)

    def ask(self, **request: Any) -> int:
        """Have something done; return its number."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            return int(stdout.readline())

    def _close(self) -> None:
        self._process.communicate()


@functools.cache
def _forkserver() -> _Forkserver:
    return _Forkserver()


# -- the forkserver's own process ----------------------------------------------------------------------


def main() -> None:
    """Fork a server for each request on standard input; answer with its number."""
    _import_everything()
    pids: set[int] = set()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["do"] == "reap":
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
            pids.discard(request["pid"])
        else:
            answer = os.fork()
            if answer == 0:
                _serve(**request)
            pids.add(answer)
        print(answer, flush=True)  # noqa: T201 - the answer
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    """Import what a server needs, but for what reads the environment while it is imported."""
    for name in (
        "fastapi.applications", "mangum", "redis.asyncio", "parley.providers.anthropic", "parley.auth.jwt",
        "parley.providers.openai", "parley.valkey.log", "parley.bootstrap", "uvicorn.lifespan.on",
        "uvicorn.main", "parley.http_server.protocol",
    ):  # fmt: skip
        importlib.import_module(name)
    # The SDKs import most of themselves when they are first used.
    importlib.import_module("openai").AsyncOpenAI(api_key="none")
    importlib.import_module("anthropic").AsyncAnthropic(api_key="none")


def _serve(*, arguments: list[str], env: dict[str, str], out: str, log: str, **_: object) -> None:
    """Become a server, as if started with this environment."""
    code = 1
    try:
        os.setsid()
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, out, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
            (2, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        ):
            file = os.open(path, flags, 0o644)
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(env)
        random.seed()
        sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
        if Path(sys.path[0], "sitecustomize.py").exists():
            sys.modules.pop("sitecustomize", None)
            importlib.import_module("sitecustomize")
        from uvicorn.main import main as serve

        serve(arguments, standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
