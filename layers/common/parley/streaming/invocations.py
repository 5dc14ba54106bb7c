"""Ends invocations on Lambda: a response waits for its run, unless another process answers the session.

A sandbox is frozen when its response has ended, and paid for until then.
"""

import asyncio
from collections.abc import Callable, Coroutine

from parley.domain.errors import NotFound, StoreUnavailable
from parley.domain.ports import Store
from parley.streaming.reader import Reader
from parley.streaming.session_run import SessionRun

Spawn = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


class Invocations:
    """Waits for this process's runs, and gives up those that it need not answer."""

    def __init__(self, store: Store, runs: dict[str, SessionRun], spawn: Spawn, *, every: float) -> None:
        """`runs` are this process's runs by session id. `every`: seconds between looks at who answers."""
        self._store = store
        self._runs = runs
        self._spawn = spawn
        self._every = every

    async def wait_until_idle(self, run: SessionRun, until: float, *, let_go: bool = False) -> None:
        """Wait for the tasks of the run and of its writer, at most until `until` in the event loop's time.

        After a reader that was `let_go`, the run is not waited for if another process answers the session.
        """
        loop = asyncio.get_running_loop()
        while tasks := _unfinished(run):
            remaining = until - loop.time()
            if remaining <= 0 or (let_go and await self._drop(run)):
                return
            # Who answers the session may change, so a run that could not be dropped is looked at again.
            await asyncio.wait(tasks, timeout=min(remaining, self._every) if let_go else remaining)

    def release(self, run: SessionRun, reader: Reader) -> None:
        """Break a reader's stream off as soon as its response may end.

        In the process that answers the session, the client would wait for that with nothing to read. That
        process runs anyway, so its reader goes on.
        """
        self._spawn(self._release(run, reader))

    async def _release(self, run: SessionRun, reader: Reader) -> None:
        while not reader.over and run.task is not None and not run.task.done():
            if len(run.listeners) == 1 and await self._is_answered_elsewhere(run):
                reader.break_off()
                return
            await asyncio.wait({run.task}, timeout=self._every)

    async def _drop(self, run: SessionRun) -> bool:
        """Give up a run without readers, if another process answers the session; return whether it did.

        The session stays attached in the log and in the store, where that process holds its lease. If that
        process dies, the next reader or the purge takes over, as for any session without readers.
        """
        if run.listeners or not await self._is_answered_elsewhere(run) or run.listeners:
            return False
        generation, task = run.generation, run.task
        assert generation is not None
        assert task is not None
        run.dropped = True
        del self._runs[run.session.id]
        task.cancel()
        await asyncio.wait({task})
        if not generation.attached:
            generation.lose()
        return True

    async def _is_answered_elsewhere(self, run: SessionRun) -> bool:
        """Return whether another process holds the session's lease, so that this run is not needed."""
        if not self._is_spare(run):
            return False
        try:
            leased, reply = await self._store.reply(run.session.id)
        except (StoreUnavailable, NotFound):
            return False
        # A reply that is saved already is shown within a moment.
        return leased and reply is None and self._is_spare(run)

    def _is_spare(self, run: SessionRun) -> bool:
        """Return whether the run only follows, and is not about to save a reply."""
        generation = run.generation
        return (
            self._runs.get(run.session.id) is run
            and run.result is None
            and generation is not None
            and not (generation.over or generation.writing)
            and not (run.stopping or run.disabled or run.limit is not None)
            and run.session.id not in generation.stops
        )


def _unfinished(run: SessionRun) -> set[asyncio.Task[None]]:
    generation = run.generation
    writes = generation.task if generation is not None and generation.writing else None
    return {task for task in (writes, run.task) if task is not None and not task.done()}
