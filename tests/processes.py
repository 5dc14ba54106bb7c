"""The tests' child processes: servers of Parley, and the fake provider."""

import itertools
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.forkserver import Forked

KEY_SECRET = "a secret that only the tests know, long enough"
# Makes a server believe that it is a sandbox of Lambda, whose adapter sends an invocation's deadline.
IN_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "stream"}
# All is plain HTTP here, and to load the certificates that nobody asks for takes longer than a request.
VERIFY = False
# Seconds that a machine may take that has much else to do.
_PATIENCE = 30
_ROOT = Path(__file__).resolve().parent.parent
_names = itertools.count()
# What serves many streams runs on the one, Lambda on the other.
_LOOPS = ("asyncio", "local.loop:new_event_loop")


class Process:
    """A child process with a URL; `freeze` and `thaw` stop and continue it."""

    def __init__(self, process: "subprocess.Popen[bytes] | Forked", log: Path) -> None:
        """`log` is where its standard error goes."""
        self.process = process
        self.log = log
        self.url = ""

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to end, and wait for that."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def freeze(self) -> None:
        """Stop it where it stands."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


def _environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    path = os.pathsep.join([str(_ROOT / "layers" / "common"), str(_ROOT)])
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}


_servers: Counter[str] = Counter()


def _loop() -> str:
    """Return a server's event loop: of a test's servers, either by turns; the same when it is run again."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    _servers[test] += 1
    return _LOOPS[(zlib.crc32(test.encode()) + _servers[test]) % 2]


class Server(Process):
    """One Parley process, as the laptop runs it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        defaults = {
            "KEY_SECRET": KEY_SECRET,
            "AUTH_MODE": "trusted",
            "ALLOW_TRUSTED": "true",
            "DEMO_MODEL": "true",
            "SHARE_CONTEXT_FREE": "true",
            "DEMO_TOKENS_PER_SECOND": "0",
            "LOG_LEVEL": "INFO",
        }
        # Port 0 lets the kernel choose; uvicorn says which.
        arguments = ["local.server:app", "--host", "127.0.0.1", "--port", "0", "--loop", _loop()]
        arguments += [
            "--http",
            "parley.http_server.protocol:HttpProtocol",
            "--no-access-log",
            "--timeout-graceful-shutdown",
            "5",
        ]
        env = _environment(**(defaults | settings))
        log = folder / f"server-{next(_names)}.log"
        self.out = log.with_suffix(".out")
        log.touch()
        self.out.touch()
        super().__init__(self._start(arguments, env, log), log)
        self.url = self._wait()

    def _start(
        self, arguments: list[str], env: dict[str, str], log: Path
    ) -> "subprocess.Popen[bytes] | Forked":
        return Forked(arguments, env, self.out, log)

    def output(self) -> str:
        """Return all it wrote."""
        return self.log.read_text() + self.out.read_text()

    def _wait(self) -> str:
        deadline = time.monotonic() + 60
        mark = "Uvicorn running on "
        while time.monotonic() < deadline and self.process.poll() is None:
            text = self.output()
            if mark in text:
                return text.partition(mark)[2].split(" ", 1)[0]
            time.sleep(0.02)
        self.close()
        raise RuntimeError(f"the server did not start:\n{self.output()[-4000:]}")


class FreshServer(Server):
    """A server with an interpreter of its own, for what happens while modules are imported."""

    def _start(self, arguments: list[str], env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "uvicorn", *arguments]
        with self.out.open("ab") as out, log.open("ab") as err:
            return subprocess.Popen(
                command, cwd=_ROOT, env=env, stdout=out, stderr=err, start_new_session=True
            )


class Fake(Process):
    """The fake provider in a process of its own, scripted over HTTP."""

    arguments: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "local.fake_provider", "--port", "0", *self.arguments]
        log = folder / f"fake-{next(_names)}.log"
        with log.open("ab") as err:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )
        super().__init__(process, log)
        assert process.stdout is not None
        with process.stdout:
            mark, _, url = process.stdout.readline().decode().partition("fake provider: ")
        if mark or not url:
            raise RuntimeError(f"the fake provider did not start: {log.read_text()[-2000:]}")
        self.url = url.strip()

    def stats(self) -> dict[str, Any]:
        """Return what it has seen."""
        response = httpx.get(f"{self.url}/_stats", verify=VERIFY, timeout=_PATIENCE)
        stats: dict[str, Any] = response.raise_for_status().json()
        return stats

    def calls(self, model: str) -> int:
        """Return how often a model was asked."""
        return int(self.stats()["callsByModel"].get(model, 0))

    def requests(self) -> list[dict[str, Any]]:
        """Return the latest requests."""
        response = httpx.get(f"{self.url}/_requests", verify=VERIFY, timeout=_PATIENCE)
        found: list[dict[str, Any]] = response.raise_for_status().json()
        return found

    def script(self, model: str, **script: Any) -> None:
        """Script a model's replies."""
        body = {"model": model, "script": script or None}
        httpx.post(f"{self.url}/_script", json=body, verify=VERIFY, timeout=_PATIENCE).raise_for_status()

    def until(self, condition: Callable[[dict[str, Any]], bool], timeout: float = 30.0) -> dict[str, Any]:
        """Wait until its statistics fulfil a condition, and return them."""
        deadline = time.monotonic() + timeout
        while not condition(stats := self.stats()):
            assert time.monotonic() < deadline, stats
            time.sleep(0.02)
        return stats
