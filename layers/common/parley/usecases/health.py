"""Tells whether the stores answer, from memory for some seconds after a check."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from parley.domain.errors import LogUnavailable, StoreUnavailable
from parley.domain.ports import Log, Store

# Seconds for which a check's result is the answer: where both stores answered, and where one did not.
GOOD_FOR = 5.0
_BAD_FOR = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """Which stores answered."""

    database: bool
    log: bool


class HealthCheck:
    """Checks the stores once for all who ask meanwhile, and remembers the result.

    Anybody may ask, without a token, so a hundred questions must not cost a hundred statements. `clock` is in
    seconds and only grows.
    """

    def __init__(self, store: Store, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._result: Health | None = None
        self._until = 0.0
        self._check: asyncio.Task[Health] | None = None

    async def health(self) -> Health:
        """Return the result of a check that ended less than `GOOD_FOR` seconds ago, or of a new one."""
        if self._result is not None and self._clock() < self._until:
            return self._result
        check = self._check
        # A sandbox may run each invocation in its own event loop, and a task belongs to one loop.
        if check is None or check.done() or check.get_loop() is not asyncio.get_running_loop():
            check = self._check = asyncio.create_task(self._ask())
        # One of those who wait may leave.
        return await asyncio.shield(check)

    async def _ask(self) -> Health:
        database = log = True
        try:
            await self._store.check()
        except StoreUnavailable:
            database = False
        try:
            await self._log.check()
        except LogUnavailable:
            log = False
        self._result = Health(database, log)
        # From the end on: a check of a silent store lasts longer than its result is good for.
        self._until = self._clock() + (GOOD_FOR if database and log else _BAD_FOR)
        return self._result
