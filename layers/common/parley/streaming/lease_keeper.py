"""A process's word for its sessions, given now and then; and the replies that the store did not take."""

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
    """Beats while there are runs, or replies to save."""

    def __init__(
        self, store: Store, log: Log, runs: Mapping[str, SessionRun], *, every: float, session_lease: float
    ) -> None:
        """`every` and `session_lease` in seconds; `runner` are the process's, by session."""
        self._store = store
        self._log = log
        self._runs = runs
        self._every = every
        self._session_lease = session_lease
        self._unsaved: dict[str, tuple[Reply, Source]] = {}
        self._renewing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Beat from now on, as long as there is a reason to."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._keep_renewing())

    async def park(self, session_id: str, reply: Reply, source: Source) -> None:
        """Keep a reply that the store did not take, here and in the log, until it does."""
        _logger.warning("reply_parked", extra={"epoch": reply.epoch})
        self._unsaved[session_id] = (reply, source)
        with contextlib.suppress(LogUnavailable):
            await self._log.park(session_id, reply, source.value)

    async def _keep_renewing(self) -> None:
        """Vouch for this process's sessions, learn of stops that the log did not tell, save the unsaved."""
        last = 0.0
        loop = asyncio.get_running_loop()
        while self._runs or self._unsaved:
            await asyncio.sleep(0.4)
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
                # Without this task every session of the process would pass for an orphan.
                _logger.exception("pulse_broke")

    async def _renew(self) -> None:
        epochs = {
            run.session.id: run.generation.buffer.epoch
            for run in self._runs.values()
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
            self._unsaved.pop(session_id, None)
            with contextlib.suppress(LogUnavailable):
                await self._log.unpark(session_id)

    async def close(self) -> None:
        """Stop."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
