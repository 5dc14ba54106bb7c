"""Finds or makes the generation of each run: this process writes it or follows it."""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine
from functools import partial

from parley.domain.errors import LogUnavailable
from parley.domain.ports import ChatModels, Log, Store
from parley.domain.results import Ended, Follow, Hit, Overtaken, Stopping, Wait, Write
from parley.streaming.asker_keeper import AskerKeeper
from parley.streaming.flusher import Flusher
from parley.streaming.generation import Generation
from parley.streaming.model_call import CallLimits
from parley.streaming.session_run import SessionRun

_MOST_ELECTIONS = 4
Spawn = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


class _KeyLock:
    """The lock of one generation key, and how many runs hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class GenerationRegistry:
    """Joins runs to generations. Each key has at most one generation under way in this process."""

    def __init__(
        self,
        store: Store,
        log: Log,
        models: ChatModels,
        limits: CallLimits,
        session_lease: float,
        spawn: Spawn,
    ) -> None:
        self._store = store
        self._log = log
        self._models = models
        self._limits = limits
        self._session_lease = session_lease
        self._spawn = spawn
        self._askers = AskerKeeper(store, log, spawn)
        self._flusher = Flusher(log, gather=limits.flush, look=limits.look)
        self._name = secrets.token_urlsafe(9)
        self._numbers = itertools.count(1)
        self._generations: dict[str, Generation] = {}
        self._locks: dict[str, _KeyLock] = {}

    async def join_or_elect(
        self, run: SessionRun, floor: int, *, may_create: bool
    ) -> Hit | Generation | Wait | Ended | Stopping:
        """Find the generation that answers a run, or elect this process to write it.

        `floor` is the epoch that the session followed before. `may_create` False forbids a new log where the
        log is lost. Raises `StoreUnavailable`, `NotFound`.
        """
        if self._live(run.key) is not None:
            return await self._join(run, floor, may_create=may_create)
        # One join at a time for a key: the runs after the first find its generation, and copy no text again.
        lock = self._locks.setdefault(run.key, _KeyLock())
        lock.users += 1
        try:
            async with lock.lock:
                return await self._join(run, floor, may_create=may_create)
        finally:
            # Not by `locked()`: between a release and the next one's turn nobody holds it.
            lock.users -= 1
            if not lock.users:
                del self._locks[run.key]

    async def _join(
        self, run: SessionRun, floor: int, *, may_create: bool
    ) -> Hit | Generation | Wait | Ended | Stopping:
        owner = f"{self._name}:{next(self._numbers)}"
        try:
            joined = await self._log.join(
                run.key,
                run.session.id,
                owner,
                epoch=floor,
                may_create=may_create,
                read=self._live(run.key) is None,
            )
        except LogUnavailable:
            return self._live(run.key) or await self._claim(run, owner)
        if isinstance(joined, Hit | Wait):
            return joined
        known = self._live(run.key)
        # Another epoch means that this process's generation was replaced in the log.
        if known is not None and known.buffer.epoch == joined.epoch:
            return known
        generation = Generation(run.key, joined.epoch, owner, writing=isinstance(joined, Write))
        if isinstance(joined, Follow):
            generation.begun = joined.begun
        return self._register(generation)

    async def _claim(self, run: SessionRun, owner: str) -> Generation | Wait | Ended | Stopping:
        """Elect a writer by a row update in the store, for a run without a log."""
        claim = await self._store.claim(run.session.id, run.key, self._session_lease)
        if isinstance(claim, Overtaken):
            return Wait()
        if not isinstance(claim, int):
            return claim
        generation = Generation(run.key, claim, owner, writing=True)
        generation.logged = False
        return self._register(generation)

    def _live(self, key: str) -> Generation | None:
        generation = self._generations.get(key)
        return None if generation is None or generation.over else generation

    def _register(self, generation: Generation) -> Generation:
        self._generations[generation.key] = generation
        return generation

    def begin(self, run: SessionRun, generation: Generation) -> None:
        """Start the task that feeds a generation's buffer, on behalf of this run.

        Raises `RuntimeError` if this run was elected too often.
        """
        if generation.writing:
            assert run.request is not None
            run.elections += 1
            if run.elections > _MOST_ELECTIONS:
                raise RuntimeError("this session's generations keep failing")
            generation.deadline = run.deadline
            flusher = self._flusher if generation.logged else None
            work = generation.write(run.request, self._models, flusher, self._limits, self._askers)
        else:
            work = generation.follow(self._log, self._limits)
        generation.task = self._spawn(work)
        generation.task.add_done_callback(partial(self.forget, generation))

    def forget(self, generation: Generation, _: object = None) -> None:
        """Remove a generation, so that it answers no further run."""
        if self._generations.get(generation.key) is generation:
            del self._generations[generation.key]

    def join(self, run: SessionRun, generation: Generation) -> None:
        """Count the run's session, which the store has attached, among those that want the generation."""
        generation.attached.add(run.session.id)
        # An asker that left while it was alone has no successor yet.
        self._askers.look(generation)

    def leave(self, run: SessionRun, generation: Generation) -> None:
        """Count the run's session no more; another one is charged for what is produced from now on."""
        generation.attached.discard(run.session.id)
        self._askers.leave(generation, run.session.id)

    def flush_soon(self, generation: Generation) -> None:
        """Flush the generation soon, if this process writes it, and so read its stops."""
        self._flusher.flush_soon(generation)

    def cut(self) -> None:
        """End every reply that this process writes, as truncated."""
        for generation in list(self._generations.values()):
            if generation.writing:
                generation.cut()

    async def close(self) -> None:
        """Stop flushing."""
        await self._flusher.close()
