"""Replaces the asker of a generation that this process writes, once it has left: who still reads is charged.

The asker may be another process's session, and so may its successor. Whichever of them ends first, the store
charges them together what the provider counted (`Store.hand_over`).
"""

import asyncio
from collections.abc import Callable, Coroutine

from parley.domain.errors import LogUnavailable, StoreUnavailable
from parley.domain.ports import Log, Store
from parley.streaming.generation import Generation
from parley.support.logs import logger

_logger = logger("runs")
# Seconds until the next try, where nobody could take the asker's place.
_PAUSE_SECONDS = 1.0


class AskerKeeper:
    """Serves every generation that this process writes. `spawn` starts a task."""

    def __init__(
        self, store: Store, log: Log, spawn: "Callable[[Coroutine[None, None, None]], asyncio.Task[None]]"
    ) -> None:
        self._store = store
        self._log = log
        self._spawn = spawn
        self._under_way: dict[Generation, asyncio.Task[None]] = {}

    def leave(self, generation: Generation, session_id: str) -> None:
        """Note that this process's session has left the generation."""
        if generation.asker == session_id and generation.asker_due is None:
            generation.asker_due = 0.0
        # With a log, the next flush tells whether any session is left, in any process.
        if not generation.logged:
            self.look(generation)

    def look(self, generation: Generation) -> None:
        """Have the asker replaced soon, if it is due."""
        due = generation.asker_due
        if due is None or generation.over or generation in self._under_way:
            return
        if due <= asyncio.get_running_loop().time():
            task = self._under_way[generation] = self._spawn(self._replace(generation))
            task.add_done_callback(lambda _: self._under_way.pop(generation, None))

    async def settle(self, generation: Generation) -> None:
        """Have the asker replaced where it is gone, before the generation's end is shown.

        Nobody tells of an asker in another process that died, so the store is asked about such a one.
        """
        task = self._under_way.get(generation)
        if task is not None:
            await asyncio.wait({task})
        if generation.asker_due is not None or generation.asker not in generation.attached:
            await self._replace(generation)

    async def _replace(self, generation: Generation) -> None:
        here = frozenset(generation.attached)
        try:
            found = await self._found(generation, here)
        except StoreUnavailable:
            found = None
        except Exception:
            # What is charged to whom must not keep a reply from its readers.
            _logger.exception("hand_over_broke")
            found = None
        if found is not None:
            generation.asker = found
            # It may have left while the store was asked, and `leave` did not know it for the asker.
            left = found in generation.stops or (found in here and found not in generation.attached)
            generation.asker_due = 0.0 if left else None
        elif generation.asker_due is not None:
            generation.asker_due = asyncio.get_running_loop().time() + _PAUSE_SECONDS

    async def _found(self, generation: Generation, here: frozenset[str]) -> str | None:
        candidates = here
        try:
            candidates |= await self._log.attached(generation.key)
        except LogUnavailable:
            generation.logged = False
        candidates -= generation.stops
        if generation.asker is not None:
            asker = {generation.asker}
            candidates = candidates | asker if generation.asker_due is None else candidates - asker
        if not candidates:
            return None
        return await self._store.hand_over(
            generation.asker,
            sorted(candidates),
            generation.key,
            generation.buffer.epoch,
            generation.so_far(),
        )
