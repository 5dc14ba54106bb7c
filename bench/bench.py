"""One run: the stores, the upstream, the contenders, and the sheet that the cases fill."""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psycopg

from bench.builds import Build
from bench.contenders import ALL, FURTHER_MODELS, MODELS, Parley
from bench.driver import BadAnswer, Connection, require
from bench.install import PYTHON, NotInstalled
from bench.rounds import orders
from bench.servers import USER, USERS, Contender, NotRunning, Upstream
from bench.sheet import Sheet
from bench.stores import Stores
from local.files import free_port

_Contender = TypeVar("_Contender", bound=Contender)


class Bench:
    """What every case works with. Of all contenders only one is awake at a time.

    `builds` are Parley's: the present one, and an older one that is measured beside it, if any.
    Two get at least `rounds_of_builds` of what is measured once for all others.
    """

    def __init__(
        self,
        folder: Path,
        builds: Sequence[Build],
        *,
        quick: bool,
        skip: Sequence[str],
        rounds_of_builds: int,
    ) -> None:
        self.folder = folder
        self.builds = builds
        self.rounds_of_builds = rounds_of_builds
        self.quick = quick
        self.skip = skip
        self.sheet = Sheet()
        self.stores = Stores(folder, (*MODELS, *FURTHER_MODELS), (USER, *USERS))
        self.contenders: list[Contender] = []
        self.failed: list[str] = []
        self.case = ""
        self.due = math.inf
        self._prompts = itertools.count(1)

    async def start(self) -> None:
        """Start everything; a contender that does not start is noted as missing.

        Raises `NotRunning` if one of two builds is missing: there would be nothing to compare.
        """
        self.stores.fill(self.builds[0])
        self.upstream = Upstream(PYTHON, self.folder, free_port())
        for contender in self._all():
            try:
                contender.install()
                contender.start()
                await self.warm_up(contender)
            except (NotInstalled, NotRunning, BadAnswer, OSError, psycopg.Error) as error:
                said = f"{error} {contender.said()}" if not isinstance(error, NotRunning) else str(error)
                contender.stop()
                self.failed.append(contender.label)
                reason = " ".join(said[-300:].split())
                if isinstance(contender, Parley) and len(self.builds) > 1:
                    raise NotRunning(f"{contender.label} could not be started: {reason}") from None
                self.sheet.note(
                    f"{contender.label}: **not measured**, it could not be installed or started: {reason}"
                )
                continue
            self.contenders.append(contender)
            contender.sleep()
        # Pages are counted by those who share them, so nobody is looked at before all are there.
        for contender in self.contenders:
            self.sheet.add("process", contender.label, "memory", contender.memory())

    def _all(self) -> Iterator[Contender]:
        for kind in ALL:
            name = kind.__name__.lower()
            if name in self.skip:
                label = kind.label or self.builds[0].label
                self.sheet.note(f"{label}: skipped (--skip {name}).")
            elif kind is Parley:
                for build in self.builds:
                    yield Parley(self.folder, free_port(), self.stores, self.upstream.url, build)
            else:
                yield kind(self.folder, free_port(), self.stores, self.upstream.url)

    def labels(self) -> list[str]:
        """Return the names of all contenders, in the order of the tables."""
        builds = [build.label for build in self.builds]
        return [label for kind in ALL for label in (builds if kind is Parley else [kind.label])]

    def stop(self) -> None:
        """Stop everything."""
        for contender in self.contenders:
            contender.stop()
        if hasattr(self, "upstream"):
            self.upstream.stop()
        self.stores.stop()

    def rounds(
        self, contenders: Sequence[_Contender], full: int, quick: int = 1
    ) -> Iterator[tuple[int, list[_Contender]]]:
        """Yield the number of each round and whom to measure in it.

        There are fewer rounds when the run is to be quick, or the machine is slow; two builds get a few more.
        """
        found = orders(
            contenders,
            [each for each in contenders if isinstance(each, Parley)],
            rounds=quick if self.quick else full,
            of_builds=self.rounds_of_builds,
        )
        for number, turn in enumerate(found):
            if number >= quick and self.late():
                self.sheet.note(
                    f"{self.case}: the machine was busy; there was time for {number} of {len(found)} rounds."
                )
                return
            self.sheet.round += 1
            yield number, turn

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
        """Have everything imported, compiled and connected; raises `BadAnswer` unless all is answered."""
        for _ in range(5):
            for prompt in self.prompts(2):
                connection = await Connection.to(contender.url)
                exchanges = [await connection.ask(await contender.open(prompt, "full-20"))]
                if contender.keeps and contender.relays:
                    exchanges.append(await connection.ask(contender.relay_request(prompt, "full-20")))
                connection.close()
                require(exchanges, tokens=20)

    @contextlib.asynccontextmanager
    async def awake(self, contender: Contender) -> AsyncIterator[Contender]:
        """Wake a contender for the time of a measurement; if its answer is bad, that is noted."""
        with self.noting(contender):
            contender.wake()
            try:
                await asyncio.sleep(0.05)
                yield contender
            finally:
                contender.sleep()

    @contextlib.contextmanager
    def noting(self, contender: Contender) -> Iterator[None]:
        """Note what a contender fails at, and let the others go on."""
        try:
            yield
        except (BadAnswer, NotRunning) as error:
            self.failed.append(contender.label)
            self.sheet.note(f"{contender.label}: **failed a measurement**: {str(error)[:300]}")

    async def restart(self, contender: Contender) -> None:
        """Start a contender anew, as if nothing had happened to it yet."""
        if not contender.fresh:
            contender.restart()
            await self.warm_up(contender)
            contender.fresh = True


def log(text: str) -> None:
    """Tell whoever waits what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
