"""Renews the leases of this process's sessions in Postgres, and retries replies that it could not store."""

import asyncio
import contextlib
from collections.abc import Mapping

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable, NotFound, StoreUnavailable
from parley.domain.events import Source
from parley.domain.ports import Log, Store
from parley.streaming.parked_replies import save_parked_reply
from parley.streaming.session_run import SessionRun
from parley.support.logs import logger

_logger = logger("runs")


class LeaseKeeper:
    """Runs one task while there are runs, or replies to save."""

    def __init__(
        self, store: Store, log: Log, runs: Mapping[str, SessionRun], *, every: float, session_lease: float
    ) -> None:
        """`every` and `session_lease` are in seconds; `runs` are this process's runs by session id."""
        self._store = store
        self._log = log
        self._runs = runs
        self._every = every
        self._session_lease = session_lease
        self._unsaved: dict[str, tuple[Reply, Source]] = {}
        self._renewing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the task, unless it runs already."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._keep_renewing())

    async def park(self, session_id: str, reply: Reply, source: Source) -> None:
        """Keep a reply that the store could not take, here and in the log, until the store takes it."""
        _logger.warning("reply_parked", extra={"epoch": reply.epoch})
        self._unsaved[session_id] = (reply, source)
        with contextlib.suppress(LogUnavailable):
            await self._log.park(session_id, reply, source.value)

    async def parked(self, session_id: str) -> tuple[Reply, Source] | None:
        """Return the session's reply that waits for the store, whichever process parked it.

        None where the log does not answer: its reader is not made to wait for it.
        """
        if session_id in self._unsaved:
            return self._unsaved[session_id]
        with contextlib.suppress(LogUnavailable):
            found = await self._log.parked_of(session_id)
            if found is not None:
                return found[0], Source(found[1])
        return None

    async def unpark(self, session_id: str) -> None:
        """Forget a parked reply that the store has taken."""
        self._unsaved.pop(session_id, None)
        with contextlib.suppress(LogUnavailable):
            await self._log.unpark(session_id)

    async def _keep_renewing(self) -> None:
        """Renew leases, learn of stops that the log did not tell, and save parked replies."""
        last = 0.0
        loop = asyncio.get_running_loop()
        while self._runs or self._unsaved:
            await asyncio.sleep(0.4)
            # Without the log only Postgres tells of stops and ends, so look at every turn.
            degraded = any(run.generation and not run.generation.logged for run in self._runs.values())
            if not degraded and loop.time() - last < self._every:
                continue
            last = loop.time()
            try:
                await self._renew()
                await self._save_unsaved()
            except StoreUnavailable:
                pass
            except Exception:
                # Without this task every session of the process would count as an orphan.
                _logger.exception("pulse_broke")

    async def _renew(self) -> None:
        epochs = {
            run.session.id: run.generation.buffer.epoch
            for run in self._runs.values()
            # A lease that may not be renewed lapses, so that another process can take over.
            if run.generation is not None and run.result is None and run.generation.renewable
        }
        for status in await self._store.renew_leases(epochs, self._session_lease):
            run = self._runs.get(status.session_id)
            if run is None or run.result is not None:
                continue
            if status.disabled:
                run.disabled = True
                run.wakeup.notify()
            elif status.ended:
                with contextlib.suppress(NotFound):
                    _, reply = await self._store.reply(status.session_id)
                    if reply is not None:
                        run.settle(reply, saved=True)
                        run.wakeup.notify()
            elif status.stopping:
                run.halt()

    async def _save_unsaved(self) -> None:
        for session_id, (reply, source) in list(self._unsaved.items()):
            await save_parked_reply(self._store, session_id, reply, source.value, _logger)
            await self.unpark(session_id)

    async def close(self) -> None:
        """Stop the task."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
