"""Answers this process's sessions: each joins a generation, keeps to it, and saves its copy of the reply.

A run goes on with or without readers. It ends in one of three ways: the generation ended, the session was
stopped, or another process saved the session's reply first.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass

from parley.domain.conversation import Reply, Session
from parley.domain.errors import LogUnavailable, NotFound, StoreUnavailable
from parley.domain.events import Completed, End, Failed, FinishReason, Source
from parley.domain.ports import ChatModels, Log, ModelRequest, Store
from parley.domain.prompt import left_out, normalise, trim
from parley.domain.results import Attached, Ended, Hit, Overtaken, Stopping, Wait
from parley.streaming.generation import Generation
from parley.streaming.generation_keys import GenerationKeys
from parley.streaming.generation_registry import GenerationRegistry
from parley.streaming.invocations import Invocations
from parley.streaming.lease_keeper import LeaseKeeper
from parley.streaming.model_call import CallLimits
from parley.streaming.reader_counter import ReaderCounter
from parley.streaming.session_run import SessionRun
from parley.support.logs import logger

_logger = logger("runs")
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that `SessionRunner` needs; times in seconds. `readers` is each session's limit."""

    limits: CallLimits
    session_lease: float
    renew_every: float
    readers: int


class SessionRunner:
    """Holds every run and every generation of this process.

    `readers` counts the readers of its sessions. `invocations` tells when a reader's response may end.
    """

    def __init__(
        self, store: Store, log: Log, models: ChatModels, keys: GenerationKeys, policy: Policy
    ) -> None:
        self._store = store
        self._log = log
        self._keys = keys
        self._policy = policy
        self._registry = GenerationRegistry(
            store, log, models, policy.limits, policy.session_lease, self._spawn
        )
        self._runs: dict[str, SessionRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = self._tasks.discard
        self._lease_keeper = LeaseKeeper(
            store, log, self._runs, every=policy.renew_every, session_lease=policy.session_lease
        )
        self.readers = ReaderCounter(log, limit=policy.readers, every=policy.renew_every)
        self.invocations = Invocations(store, self._runs, self._spawn, every=policy.renew_every)

    def open(self, session: Session, deadline: float | None) -> SessionRun:
        """Return the session's run, and start it if this process has none.

        `deadline`, in the event loop's time, is when a reply written for this reader must end.
        """
        if session.reply is not None:
            run = SessionRun(session, "", None)
            # The start may have saved a cached reply with the session; its reader should still hear `cache`.
            cached = session.source == Source.CACHE
            run.source = Source.CACHE if cached else Source.HISTORY
            run.settle(session.reply, saved=True)
            return run
        known = self._runs.get(session.id)
        if known is not None:
            return known
        kept = normalise(session.turns, whole=not session.earlier)
        sent = trim(kept, session.model)
        request = ModelRequest(session.model, sent)
        bypass = session.id if session.regenerate else None
        key = session.generation_key or self._keys.key_for(
            session.model, request.turns, session.user_id, bypass
        )
        run = SessionRun(session, key, request, left_out(session.earlier, kept, sent))
        run.deadline = deadline
        self._runs[session.id] = run
        run.task = self._spawn(self._answer(run))
        self._lease_keeper.begin()
        return run

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def _answer(self, run: SessionRun) -> None:
        try:
            for attempt in range(_PATIENCE):
                try:
                    await self._join_until_settled(run)
                    break
                except StoreUnavailable:
                    # The stream has begun, and its reader can wait longer than one statement may.
                    if attempt + 1 == _PATIENCE:
                        raise
                    await asyncio.sleep(0.5)
        except (StoreUnavailable, NotFound) as error:
            run.settle(run.lost(error.code, error.message), saved=False)
        except Exception:
            _logger.exception("run_broke")
            run.settle(run.lost("internal", "Something went wrong here."), saved=False)
        finally:
            if not run.dropped:
                if run.result is None:
                    run.settle(run.lost("unavailable", "This server is going away."), saved=False)
                self._runs.pop(run.session.id, None)
                # After the readers, who were just notified: the line takes as long as their frames.
                asyncio.get_running_loop().call_soon(run.report)

    async def _join_until_settled(self, run: SessionRun) -> None:
        session = run.session
        floor, leased = session.epoch, session.leased
        pause = 0.05
        while run.result is None:
            # Readers saw this epoch, and nobody holds the session: the reply may have been whole, and wait.
            if floor and not leased and await self._save_parked(run, floor):
                return
            # A lease in Postgres says that a writer lives: its log will come back, so create none.
            entry = await self._registry.join_or_elect(run, floor, may_create=not leased)
            if floor and leased and await self._kept_from(run, entry, floor):
                return
            if isinstance(entry, Hit):
                run.source = Source.CACHE
                self._show(run, entry.reply)
                await asyncio.sleep(0)  # readers get the text before the wait for the store
                if await self._save(run, entry.reply, Source.CACHE):
                    return
            elif isinstance(entry, Generation):
                # A cursor must fit one text only, so the next epoch must exceed every epoch that readers saw.
                floor = max(floor, entry.buffer.epoch)
                if await self._keep_to(run, entry):
                    return
            elif isinstance(entry, Ended):
                run.settle(entry.reply, saved=True)
                return
            elif isinstance(entry, Stopping):
                await self._give_up(run, floor, entry)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            leased, reply = await self._store.reply(session.id)
            if reply is not None:
                run.settle(reply, saved=True)

    def _show(self, run: SessionRun, reply: Reply) -> None:
        generation = Generation(run.key, reply.epoch, "", writing=False)
        generation.buffer.append(reply.text)
        generation.buffer.end = reply.end
        run.turn_to(generation)

    async def _keep_to(self, run: SessionRun, generation: Generation) -> bool:
        """Keep the run with a generation until either ends. False means that the run must join anew."""
        session = run.session
        first = generation.writing and generation.asker is None and generation.asker_due is None
        if first:
            generation.asker = session.id
        standing: Attached | Overtaken | Ended | Stopping = Attached()
        # Where another process holds the lease at this epoch, the update would change nothing.
        if generation.writing or not session.follows(run.key, generation.buffer.epoch):
            standing = await self._store.attach(
                session.id,
                run.key,
                generation.buffer.epoch,
                self._policy.session_lease,
                writer=generation.writing,
                asks=generation.asker == session.id,
            )
        if isinstance(standing, Ended):
            run.settle(standing.reply, saved=True)
        elif isinstance(standing, Stopping):
            await self._give_up(run, generation.buffer.epoch, standing)
        if not isinstance(standing, Attached):
            if first:
                # Nothing was asked on its behalf: the next one is charged from the beginning.
                generation.asker, generation.asker_due = None, 0.0
            # The join attached the session in the log; nobody else would detach it.
            await self._detach(run, generation)
            return run.result is not None
        # Attached first, asked then: only an attached session can save what the model says.
        if generation.task is None:
            if generation.lost:
                return False
            self._registry.begin(run, generation)
            run.source = Source.PROVIDER if generation.writing else Source.JOINED
        self._registry.join(run, generation)
        generation.watchers.add(run.wakeup)
        run.turn_to(generation)
        try:
            while run.result is None:
                # The end comes before a stop: a whole reply is saved whole.
                if generation.buffer.end is not None:
                    return await self._save(run, generation.reply(), run.source)
                if run.stopping or run.disabled or session.id in generation.stops:
                    return await self._stop(run, generation)
                if generation.lost:
                    return False
                await run.wakeup.wait()
            if generation.writing and not generation.over:
                # Another process ended the session; for this one, too, it has left.
                await self._detach(run, generation)
            return True
        finally:
            generation.watchers.discard(run.wakeup)
            generation.attached.discard(session.id)

    async def _stop(self, run: SessionRun, generation: Generation) -> bool:
        run.limit = generation.buffer.length
        text = generation.buffer.text()
        if not generation.writing:
            # The writer knows the rest of the text and what was spent, so it may save first. It looks at its
            # log this often while the model is silent.
            await asyncio.sleep(1.5 * self._policy.limits.look + 0.05)
        end = generation.charged(_end_of_stopped(disabled=run.disabled))
        reply = Reply(generation.buffer.epoch, text, end)
        saved, _ = await asyncio.gather(self._save(run, reply, run.source), self._detach(run, generation))
        return saved

    async def _detach(self, run: SessionRun, generation: Generation) -> None:
        generation.attached.discard(run.session.id)
        try:
            await self._log.stop(run.key, run.session.id)
            # The writer flushes at once, and sees for itself whether any session is left.
            self._registry.flush_soon(generation)
        except LogUnavailable:
            generation.logged = False
        if generation.task is None and not generation.attached:
            # This run was elected but may not write, and no task runs: give the election back.
            self._registry.forget(generation)
            generation.lose()
            with contextlib.suppress(LogUnavailable):
                await self._log.abandon(run.key, generation.owner)
        elif not generation.logged and not generation.attached:
            generation.lose()
        self._registry.leave(run, generation)

    async def _give_up(self, run: SessionRun, epoch: int, stopping: Stopping) -> None:
        """End a session that was stopped while no process answered it.

        A reply that is parked is saved whole, else the text that the log has.
        """
        if epoch and await self._save_parked(run, epoch):
            return
        text = ""
        with contextlib.suppress(LogUnavailable):
            text = (await self._log.read(run.key, epoch, 0)).text
        end = _end_of_stopped(disabled=stopping.disabled)
        await self._save(run, Reply(epoch, text, end), run.source)

    async def _kept_from(
        self, run: SessionRun, entry: Hit | Generation | Wait | Ended | Stopping, floor: int
    ) -> bool:
        """Save the parked reply of epoch `floor` instead of going on to another epoch, which is another text.

        Equal questions have begun that one since. False means that no reply is parked, or none is overtaken.
        """
        if isinstance(entry, Hit):
            return entry.reply.epoch != floor and await self._save_parked(run, floor)
        if not isinstance(entry, Generation) or entry.buffer.epoch == floor:
            return False
        if not await self._save_parked(run, floor):
            return False
        await self._detach(run, entry)
        return True

    async def _save_parked(self, run: SessionRun, epoch: int) -> bool:
        """Show and save the reply that is parked for the session, unless `epoch` is later.

        False means that there is none, or that a later epoch has the session.
        """
        parked = await self._lease_keeper.parked(run.session.id)
        if parked is None or parked[0].epoch < epoch:
            return False
        reply, source = parked
        self._show(run, reply)
        await asyncio.sleep(0)  # as for a hit
        if not await self._save(run, reply, source):
            return False
        # Where the store had another reply, whoever saves what is parked next tells of it in the log.
        if run.result is not None and run.result.saved and run.result.reply is reply:
            await self._lease_keeper.unpark(run.session.id)
        return True

    async def _save(self, run: SessionRun, reply: Reply, source: Source) -> bool:
        """Save the run's reply. False means that a later epoch has the session."""
        session_id = run.session.id
        try:
            outcome = await self._store.finish(session_id, reply, source.value)
        except StoreUnavailable:
            await self._lease_keeper.park(session_id, reply, source)
            run.settle(reply, saved=False)
            return True
        if isinstance(outcome, Overtaken):
            return False
        run.settle(outcome.reply if isinstance(outcome, Ended) else reply, saved=True)
        return True

    def halt(self, session_id: str) -> None:
        """Stop a session that this process answers, without waiting for the log to tell of the stop."""
        run = self._runs.get(session_id)
        if run is not None:
            run.halt()

    async def close(self, grace: float = 3.0) -> None:
        """End the replies being written as truncated, save them, and stop. `grace` is in seconds."""
        self._registry.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        await self._registry.close()
        await self._lease_keeper.close()
        await self.readers.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _end_of_stopped(*, disabled: bool) -> End:
    """Return how a session ends that somebody stopped: its user, or who disabled the user."""
    if disabled:
        return Failed("user_disabled", "This user is disabled.", retryable=False)
    return Completed(FinishReason.STOPPED)
