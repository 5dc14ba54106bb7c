"""One run: the stores, the upstream, the contenders, and the sheet that the cases fill."""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from bench.contenders import ALL, FURTHER_MODELS, MODELS, PYTHON
from bench.driver import BadAnswer, Connection
from bench.install import NotInstalled
from bench.servers import USERS, Contender, NotRunning, Upstream
from bench.sheet import Sheet
from bench.stores import Stores
from local.files import free_port


class Bench:
    """What every case works with. Of all contenders only one is awake at a time."""

    def __init__(self, folder: Path, *, quick: bool, skip: Sequence[str]) -> None:
        self.folder = folder
        self.quick = quick
        self.skip = skip
        self.sheet = Sheet()
        self.stores = Stores(folder)
        self.contenders: list[Contender] = []
        self.failed: list[str] = []
        self.case = ""
        self.due = math.inf
        self._prompts = itertools.count(1)

    async def start(self) -> None:
        """Start everything; a contender that does not start is noted as missing."""
        await self.stores.fill((*MODELS, *FURTHER_MODELS), USERS)
        self.upstream = Upstream(PYTHON, self.folder, free_port())
        for kind in ALL:
            name = kind.__name__.lower()
            if name in self.skip:
                self.sheet.note(f"{kind.label}: skipped (--skip {name}).")
                continue
            contender = kind(self.folder, free_port(), self.stores, self.upstream.url)
            try:
                contender.install()
                contender.start()
                await self.warm_up(contender)
            except (NotInstalled, NotRunning, BadAnswer, OSError) as error:
                contender.stop()
                self.failed.append(kind.label)
                reason = " ".join(str(error)[-300:].split())
                self.sheet.note(
                    f"{kind.label}: **not measured**, it could not be installed or started: {reason}"
                )
                continue
            self.contenders.append(contender)
            self.sheet.add("process", contender.label, "memory", contender.memory())
            contender.sleep()

    def stop(self) -> None:
        """Stop everything."""
        for contender in self.contenders:
            contender.stop()
        if hasattr(self, "upstream"):
            self.upstream.stop()
        self.stores.stop()

    def repetitions(self, full: int, quick: int = 1) -> Iterator[int]:
        """Yield the numbers of repetitions: fewer when the run is to be quick, or the machine is slow."""
        for number in range(quick if self.quick else full):
            if number >= quick and self.late():
                self.sheet.note(
                    f"{self.case}: the machine was busy; there was time for {number} of {full} rounds."
                )
                return
            yield number

    def late(self) -> bool:
        """Tell whether this part of the run should be over."""
        return time.monotonic() > self.due

    def count(self, full: int, contender: Contender | None = None) -> int:
        """Return how many requests make one repetition."""
        slowness = contender.slowness if contender is not None else 1
        return max(5, full // (slowness * (4 if self.quick else 1)))

    def prompt(self) -> str:
        """Return a prompt that was not used before, as long as people's prompts."""
        return f"Question {next(self._prompts)}: what is it that makes a reply arrive one token at a time?"

    def prompts(self, count: int) -> list[str]:
        """Return prompts that were not used before."""
        return [self.prompt() for _ in range(count)]

    async def warm_up(self, contender: Contender) -> None:
        """Have everything imported, compiled and connected."""
        for _ in range(5):
            for prompt in self.prompts(2):
                connection = await Connection.to(contender.url)
                await connection.ask(await contender.open(prompt, "full-20"))
                if contender.keeps and contender.relays:
                    await connection.ask(contender.relay_request(prompt, "full-20"))
                connection.close()

    @contextlib.asynccontextmanager
    async def awake(self, contender: Contender) -> AsyncIterator[Contender]:
        """Wake a contender for the time of a measurement; if its answer is bad, that is noted."""
        contender.wake()
        await asyncio.sleep(0.05)
        try:
            yield contender
        except (BadAnswer, NotRunning) as error:
            self.failed.append(contender.label)
            self.sheet.note(f"{contender.label}: **failed a measurement**: {str(error)[:300]}")
        finally:
            contender.sleep()

    async def restart(self, contender: Contender) -> None:
        """Start a contender anew, as if nothing had happened to it yet."""
        if not contender.fresh:
            contender.restart()
            await self.warm_up(contender)
            contender.fresh = True


def log(text: str) -> None:
    """Tell whoever waits what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
