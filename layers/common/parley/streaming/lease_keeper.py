"""A process's word for its sessions, given now and then; and the replies that the store did not take."""

import asyncio
import contextlib
from collections.abc import Mapping

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable, NotFound, StoreUnavailable
from parley.domain.events import Source
from parley.domain.ports import Log, Store
from parley.streaming.parked_replies import finished
from parley.streaming.session_run import Run
from parley.support.logs import logger

_log = logger("runs")


class Vouching:
    """Beats while there are runs, or replies to save."""

    def __init__(
        self, store: Store, log: Log, runs: Mapping[str, Run], *, every: float, session_lease: float
    ) -> None:
        """`every` and `session_lease` in seconds; `runs` are the process's, by session."""
        self._store = store
        self._log = log
        self._runs = runs
        self._every = every
        self._session_lease = session_lease
        self._unsaved: dict[str, tuple[Reply, Source]] = {}
        self._beating: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Beat from now on, as long as there is a reason to."""
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())

    async def park(self, session_id: str, reply: Reply, source: Source) -> None:
        """Keep a reply that the store did not take, here and in the log, until it does."""
        _log.warning("reply_parked", extra={"epoch": reply.epoch})
        self._unsaved[session_id] = (reply, source)
        with contextlib.suppress(LogUnavailable):
            await self._log.park(session_id, reply, source.value)

    async def _beat(self) -> None:
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
                await self._vouch()
                await self._save_unsaved()
            except StoreUnavailable:
                pass
            except Exception:
                # Without this task every session of the process would pass for an orphan.
                _log.exception("pulse_broke")

    async def _vouch(self) -> None:
        epochs = {
            run.session.id: run.generation.tape.epoch
            for run in self._runs.values()
            if run.generation is not None and run.answer is None and run.generation.vouching
        }
        for pulse in await self._store.pulse(epochs, self._session_lease):
            run = self._runs.get(pulse.session_id)
            if run is None or run.answer is not None:
                continue
            if pulse.disabled:
                run.disabled = True
                run.bell.ring()
            elif pulse.ended:
                with contextlib.suppress(NotFound):
                    _, reply = await self._store.reply(pulse.session_id)
                    if reply is not None:
                        run.settle(reply, saved=True)
                        run.bell.ring()
            elif pulse.stopping:
                run.halt()

    async def _save_unsaved(self) -> None:
        for session_id, (reply, source) in list(self._unsaved.items()):
            await finished(self._store, session_id, reply, source.value, _log)
            self._unsaved.pop(session_id, None)
            with contextlib.suppress(LogUnavailable):
                await self._log.unpark(session_id)

    async def close(self) -> None:
        """Stop."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
