"""A server under test: how it is started, stopped, put to sleep while others are measured, and asked."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from bench import machine
from bench.driver import ask, get, post
from bench.install import ROOT
from bench.stores import Stores

USER = "demo-pro"
# Many at once are many users: who starts twice at once is put in order.
USERS = tuple(f"bench-{number}" for number in range(16))
_START_SECONDS = 120.0
# The words of a command, its environment, its folder.
Command = tuple[Sequence[str | Path], dict[str, str], Path]


class NotRunning(Exception):
    """A server did not start, or ended; the message says what it said last."""


class Process:
    """A child process with its log in a file."""

    def __init__(
        self, command: Sequence[str | Path], env: dict[str, str], log: Path, *, core: int, cwd: Path = ROOT
    ) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=kept | env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=machine.pin(core),  # noqa: PLW1509 - this process has one thread
            )

    def wait_for_port(self, url: str) -> None:
        """Return once somebody listens there; raises `NotRunning`."""
        address = urlsplit(url)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((address.hostname or "", address.port or 0), timeout=1).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotRunning(self.said())
            time.sleep(0.02)

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()


class Upstream(Process):
    """The fake provider."""

    def __init__(self, python: Path, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command: list[str | Path] = [python, "-m", "bench.upstream", "--port", str(port)]
        super().__init__(command, {}, folder / "upstream.log", core=machine.OTHER_CORE)
        self.wait_for_port(self.url)

    async def stats(self) -> dict[str, int]:
        """Return what it was asked and has sent."""
        stats: dict[str, int] = (await ask(self.url, get("/stats"))).body()
        return stats

    async def end(self) -> None:
        """Have it end every reply that is under way."""
        await ask(self.url, post("/end", {}))


class Contender:
    """One system, as its users run it: one process on one core.

    `relays` says that it relays a prompt's reply; `keeps` that it keeps chats: start, stream, history.
    `saved_first` is what a stream's query needs for its reply to be saved before it ends; None if it cannot.
    Who is many times slower than the others is asked `slowness` times less often.
    """

    label = ""
    role = "peer"
    relays = False
    keeps = False
    caches = False
    saved_first: bytes | None = None
    slowness = 1
    prefix = ""
    _numbers = itertools.count()

    def __init__(self, folder: Path, port: int, stores: Stores, upstream_url: str) -> None:
        self.folder = folder
        self.stores = stores
        self.upstream_url = upstream_url
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.process: Process | None = None
        self.pids: list[int] = []
        self.fresh = False

    def install(self) -> None:
        """Install what it needs, if that is not there yet; raises `NotInstalled`."""

    def command(self) -> Command:
        """Return what starts it: the command, its environment, its folder."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return where the stores and the model are."""
        return {
            "OPENAI_BASE_URL": f"{self.upstream_url}/v1",
            "DATABASE_URL": self.stores.database_url,
            "VALKEY_URL": self.stores.valkey_url,
        }

    def another(self, port: int) -> Self:
        """Return another process of the same, not started yet."""
        return type(self)(self.folder, port, self.stores, self.upstream_url)

    def start(self) -> None:
        """Start it, and wait until it answers; raises `NotRunning`."""
        command, env, cwd = self.command()
        log = self.folder / f"{next(self._numbers)}-{type(self).__name__}.log"
        self.process = Process(command, env, log, core=machine.SERVER_CORE, cwd=cwd)
        self.process.wait_for_port(self.url)
        self.pids = machine.family(self.process.process.pid)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def said(self) -> str:
        """Return the end of its log."""
        return self.process.said() if self.process is not None else ""

    def restart(self) -> None:
        """End it and start it anew."""
        self.stop()
        self.start()

    def sleep(self) -> None:
        """Have it take no processor time."""
        if self.process is not None:
            self.process.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        if self.process is not None:
            self.process.signal(signal.SIGCONT)

    def cpu(self) -> float:
        """Return the processor time it has taken, in seconds."""
        return machine.cpu_seconds(self.pids)

    def memory(self) -> int:
        """Return its memory, in bytes."""
        return machine.memory_bytes(self.pids)

    # -- how it is asked --------------------------------------------------------------------------

    def relay_request(self, prompt: str, model: str) -> bytes:
        """Return the request that is answered by the model's reply, without any store."""
        return get("/relay", model=model, prompt=prompt)

    def start_request(self, prompt: str, model: str, user: str = USER) -> bytes:
        """Return the request that takes a prompt."""
        return post(f"{self.prefix}/chat/start", {"prompt": prompt, "modelId": model, "userId": user})

    def stream_request(self, started: dict[str, Any]) -> bytes:
        """Return the request that is answered by the reply."""
        return get(f"{self.prefix}/chat/stream", sessionId=started["sessionId"])

    def history_request(self, started: dict[str, Any]) -> bytes:
        """Return the request that is answered by the chat."""
        return get(f"{self.prefix}/chat/history", chatId=started["chatId"], userId=USER)

    async def open(self, prompt: str, model: str) -> bytes:
        """Do all that comes before the reply, and return the request that is answered by it."""
        if not self.keeps:
            return self.relay_request(prompt, model)
        exchange = await ask(self.url, self.start_request(prompt, model))
        return self.stream_request(exchange.body())

    async def open_many(self, prompts: Sequence[str], model: str) -> list[bytes]:
        """`open` for each prompt, a few at a time."""
        gate = asyncio.Semaphore(8)

        async def one(prompt: str) -> bytes:
            async with gate:
                return await self.open(prompt, model)

        return await asyncio.gather(*(one(prompt) for prompt in prompts))

    async def open_relay(self, prompts: Sequence[str], model: str) -> list[bytes]:
        """Like `open_many`, by the way with the least stores that it has."""
        if self.relays:
            return [self.relay_request(prompt, model) for prompt in prompts]
        return await self.open_many(prompts, model)


def settings(text: dict[str, object]) -> str:
    """Return YAML for a configuration: JSON is a part of it."""
    return json.dumps(text, indent=1)
