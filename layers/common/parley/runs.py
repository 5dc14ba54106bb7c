"""The sessions that this process answers: each joins a generation, keeps to it, and saves its copy.

A run goes on whether anybody reads it or not. It ends in one of three ways: the generation ended, the
session was stopped, or another process saved the session's reply first.
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from parley.bell import Bell, ring_all
from parley.context import generation_key, normalise, trim
from parley.conversation import Reply, Session
from parley.errors import LogUnavailable, NotFound, ProviderFault, StoreUnavailable
from parley.events import Completed, End, Failed, FinishReason, Source
from parley.flusher import Flusher
from parley.generation import Generation, Limits
from parley.logs import logger
from parley.ports import (
    Attached,
    ChatModels,
    Ended,
    Hit,
    Log,
    Overtaken,
    Question,
    Stopping,
    Store,
    Wait,
    Write,
)

_log = logger("runs")
_MOST_PRODUCTIONS = 4
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a run: the reply as it is stored, or will be once `saved` can become true."""

    reply: Reply
    saved: bool


class Run:
    """One session's reply in this process. Readers look at it, and hang their bells on it."""

    def __init__(self, session: Session, key: str, question: Question | None) -> None:
        self.session = session
        self.key = key
        self.question = question
        self.source = Source.JOINED
        self.generation: Generation | None = None
        self.answer: Answer | None = None
        self.limit: int | None = None
        self.deadline: float | None = None
        self.bells: set[Bell] = set()
        self.bell = Bell()
        self.stopping = False
        self.disabled = False
        self.productions = 0
        self.opened = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    def settle(self, reply: Reply, *, saved: bool) -> None:
        """Give the run its end; only the first counts."""
        if self.answer is None:
            self.answer = Answer(reply, saved)
            ring_all(self.bells)

    def turn_to(self, generation: Generation) -> None:
        """Make the readers follow this generation."""
        self.generation = generation
        for bell in self.bells:
            generation.tape.bells.add(bell)
        ring_all(self.bells)

    def halt(self) -> None:
        """Have the run stop soon."""
        self.stopping = True
        self.bell.ring()


@dataclass(frozen=True, slots=True)
class Policy:
    """What `Runs` needs of the settings; seconds."""

    limits: Limits
    key_secret: bytes
    share_context_free: bool
    session_lease: float
    pulse: float


class Runs:
    """Every run and every generation of this process."""

    def __init__(self, store: Store, log: Log, models: ChatModels, policy: Policy) -> None:
        self._store = store
        self._log = log
        self._models = models
        self._policy = policy
        self._flusher = Flusher(log, gather=policy.limits.flush, look=policy.limits.look)
        self._name = secrets.token_urlsafe(9)
        self._numbers = itertools.count(1)
        self._runs: dict[str, Run] = {}
        self._generations: dict[str, Generation] = {}
        self._doors: dict[str, asyncio.Lock] = {}
        self._unsaved: dict[str, tuple[Reply, Source]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulsing: asyncio.Task[None] | None = None

    def open(self, session: Session, deadline: float | None) -> Run:
        """Return the session's run, begun where it is not under way.

        `deadline`, in the event loop's time, is when a reply written for this reader must end.
        """
        if session.reply is not None:
            run = Run(session, "", None)
            run.source = Source.HISTORY
            run.settle(session.reply, saved=True)
            return run
        known = self._runs.get(session.id)
        if known is not None:
            return known
        question = Question(session.model, trim(normalise(session.turns), session.model.context_characters))
        run = Run(session, session.generation_key or self._key(session, question), question)
        run.deadline = deadline
        self._runs[session.id] = run
        run.task = self._spawn(self._answer(run))
        if self._pulsing is None or self._pulsing.done():
            self._pulsing = asyncio.create_task(self._pulse())
        return run

    def _key(self, session: Session, question: Question) -> str:
        try:
            adapter = self._models.of(session.model.provider).version
        except ProviderFault:
            adapter = ""
        return generation_key(
            self._policy.key_secret,
            model=session.model,
            adapter=adapter,
            turns=question.turns,
            user_id=session.user_id,
            share_context_free=self._policy.share_context_free,
            bypass=session.id if session.regenerate else None,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self, run: Run, until: float) -> None:
        """Wait until nothing that was begun for this run needs this process, or until `until`.

        `until` is in the event loop's time.
        """
        generation = run.generation
        writes = generation.task if generation is not None and generation.writing else None
        tasks = {task for task in (writes, run.task) if task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))

    # -- one run ---------------------------------------------------------------------------------

    async def _answer(self, run: Run) -> None:
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
            run.settle(_lost(run, error.code, error.message), saved=False)
        except Exception:
            _log.exception("run_broke")
            run.settle(_lost(run, "internal", "Something went wrong here."), saved=False)
        finally:
            if run.answer is None:
                run.settle(_lost(run, "unavailable", "This server is going away."), saved=False)
            self._runs.pop(run.session.id, None)
            # After the readers, who have just been rung: a line takes as long to write as their last frames.
            asyncio.get_running_loop().call_soon(self._report, run)

    def _report(self, run: Run) -> None:
        """Write the one line that metrics are made of."""
        assert run.answer is not None
        begun = run.generation.tape.begun if run.generation is not None else None
        fields = {
            "source": run.source.value,
            "model": run.session.model.id,
            "status": run.answer.reply.status.value,
            "saved": run.answer.saved,
            "characters": len(run.answer.reply.text),
            "seconds": round(time.monotonic() - run.opened, 3),
        }
        if begun is not None:
            fields["first_token_ms"] = max(0, round((begun - run.opened) * 1000))
        _log.info("reply_ended", extra=fields)

    async def _join_until_settled(self, run: Run) -> None:
        session = run.session
        floor, leased = session.epoch, session.leased
        pause = 0.05
        while run.answer is None:
            entry = await self._enter(run, floor, may_create=not leased)
            if isinstance(entry, Hit):
                run.source = Source.CACHE
                self._show(run, entry.reply)
                if await self._save(run, entry.reply, Source.CACHE):
                    return
            elif isinstance(entry, Generation):
                floor = max(floor, entry.tape.epoch)
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

    def _show(self, run: Run, reply: Reply) -> None:
        generation = Generation(run.key, reply.epoch, "", writing=False)
        generation.tape.append(reply.text)
        generation.tape.end = reply.end
        run.turn_to(generation)

    async def _keep_to(self, run: Run, generation: Generation) -> bool:
        """Accompany a generation to its end or the run's; False when the run has to join anew."""
        session = run.session
        if generation.writing and generation.asker is None:
            generation.asker = session.id
        standing = await self._store.attach(
            session.id,
            run.key,
            generation.tape.epoch,
            self._policy.session_lease,
            writer=generation.writing,
            asks=generation.asker == session.id,
        )
        if isinstance(standing, Ended):
            run.settle(standing.reply, saved=True)
        elif isinstance(standing, Stopping):
            await self._give_up(run, generation.tape.epoch, standing)
        if not isinstance(standing, Attached):
            await self._detach(run, generation)
            return run.answer is not None
        if generation.task is None:
            self._begin(run, generation)
            run.source = Source.PROVIDER if generation.writing else Source.JOINED
        generation.attached.add(session.id)
        generation.watchers.add(run.bell)
        run.turn_to(generation)
        try:
            while run.answer is None:
                if generation.tape.end is not None:
                    return await self._save(run, generation.reply(), run.source)
                if run.stopping or run.disabled or session.id in generation.stops:
                    return await self._stop(run, generation)
                if generation.lost:
                    return False
                await run.bell.wait()
            return True
        finally:
            generation.watchers.discard(run.bell)
            generation.attached.discard(session.id)

    async def _stop(self, run: Run, generation: Generation) -> bool:
        run.limit = generation.tape.length
        text = generation.tape.text()
        if not generation.writing:
            # The process that writes knows more of the reply: it has the first word.
            await asyncio.sleep(0.25)
        end: End = Completed(FinishReason.STOPPED)
        if run.disabled:
            end = Failed("user_disabled", "This user is disabled.", retryable=False)
        reply = Reply(generation.tape.epoch, text, end)
        saved, _ = await asyncio.gather(self._save(run, reply, run.source), self._detach(run, generation))
        return saved

    async def _detach(self, run: Run, generation: Generation) -> None:
        generation.attached.discard(run.session.id)
        try:
            await self._log.stop(run.key, run.session.id)
            # The writer flushes at once, and sees for itself whether anybody is left.
            self._flusher.hurry(generation)
        except LogUnavailable:
            generation.logged = False
        if generation.task is None and not generation.attached:
            # Elected, then refused: give the election back.
            generation.lose()
            with contextlib.suppress(LogUnavailable):
                await self._log.abandon(run.key, generation.owner)
        elif not generation.logged and not generation.attached:
            generation.lose()

    async def _give_up(self, run: Run, epoch: int, stopping: Stopping) -> None:
        """End a session that was stopped while nobody answered it, with what its log has."""
        text = await written(self._log, run.key, epoch)
        end: End = Completed(FinishReason.STOPPED)
        if stopping.disabled:
            end = Failed("user_disabled", "This user is disabled.", retryable=False)
        await self._save(run, Reply(epoch, text, end), run.source)

    async def _save(self, run: Run, reply: Reply, source: Source) -> bool:
        """Store the run's reply; False where a later epoch has the session."""
        session_id = run.session.id
        try:
            outcome = await self._store.finish(session_id, reply, source.value)
        except StoreUnavailable:
            _log.warning("reply_parked", extra={"epoch": reply.epoch})
            self._unsaved[session_id] = (reply, source)
            with contextlib.suppress(LogUnavailable):
                await self._log.park(session_id, reply, source.value)
            run.settle(reply, saved=False)
            return True
        if isinstance(outcome, Overtaken):
            return False
        run.settle(outcome.reply if isinstance(outcome, Ended) else reply, saved=True)
        return True

    # -- generations -----------------------------------------------------------------------------

    async def _enter(
        self, run: Run, floor: int, *, may_create: bool
    ) -> Hit | Generation | Wait | Ended | Stopping:
        if self._live(run.key) is not None:
            return await self._join(run, floor, may_create=may_create)
        door = self._doors.setdefault(run.key, asyncio.Lock())
        try:
            async with door:
                return await self._join(run, floor, may_create=may_create)
        finally:
            if not door.locked():
                self._doors.pop(run.key, None)

    async def _join(
        self, run: Run, floor: int, *, may_create: bool
    ) -> Hit | Generation | Wait | Ended | Stopping:
        owner = f"{self._name}:{next(self._numbers)}"
        try:
            joined = await self._log.join(run.key, run.session.id, owner, epoch=floor, may_create=may_create)
        except LogUnavailable:
            return self._live(run.key) or await self._claim(run, owner)
        if isinstance(joined, Hit | Wait):
            return joined
        known = self._live(run.key)
        if known is not None and known.tape.epoch == joined.epoch:
            return known
        return self._enrol(Generation(run.key, joined.epoch, owner, writing=isinstance(joined, Write)))

    async def _claim(self, run: Run, owner: str) -> Generation | Wait | Ended | Stopping:
        """Without a log, the right to write is a row of the store's."""
        claim = await self._store.claim(run.session.id, run.key, self._policy.session_lease)
        if isinstance(claim, Overtaken):
            return Wait()
        if not isinstance(claim, int):
            return claim
        generation = Generation(run.key, claim, owner, writing=True)
        generation.logged = False
        return self._enrol(generation)

    def _live(self, key: str) -> Generation | None:
        generation = self._generations.get(key)
        return None if generation is None or generation.over else generation

    def _enrol(self, generation: Generation) -> Generation:
        self._generations[generation.key] = generation
        return generation

    def _begin(self, run: Run, generation: Generation) -> None:
        """Start the task that feeds a generation's tape."""
        limits = self._policy.limits
        if generation.writing:
            assert run.question is not None
            run.productions += 1
            if run.productions > _MOST_PRODUCTIONS:
                raise RuntimeError("this session's generations keep failing")
            generation.deadline = run.deadline
            flusher = self._flusher if generation.logged else None
            work = generation.write(run.question, self._models, flusher, limits)
        else:
            work = generation.follow(self._log, limits)
        generation.task = self._spawn(work)

        def forget(_: "asyncio.Task[None]") -> None:
            if self._generations.get(generation.key) is generation:
                del self._generations[generation.key]

        generation.task.add_done_callback(forget)

    # -- the process -----------------------------------------------------------------------------

    async def _pulse(self) -> None:
        """Vouch for this process's sessions, learn of stops that the log did not tell, save the unsaved."""
        last = 0.0
        loop = asyncio.get_running_loop()
        while self._runs or self._unsaved:
            await asyncio.sleep(0.4)
            degraded = any(run.generation and not run.generation.logged for run in self._runs.values())
            if not degraded and loop.time() - last < self._policy.pulse:
                continue
            last = loop.time()
            with contextlib.suppress(StoreUnavailable):
                await self._vouch()
                await self._save_unsaved()

    async def _vouch(self) -> None:
        epochs = {
            run.session.id: run.generation.tape.epoch
            for run in self._runs.values()
            if run.generation is not None and run.answer is None and run.generation.vouching
        }
        for pulse in await self._store.pulse(epochs, self._policy.session_lease):
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
            # A session that is gone took its reply's place along.
            with contextlib.suppress(NotFound):
                await self._store.finish(session_id, reply, source.value)
            self._unsaved.pop(session_id, None)
            with contextlib.suppress(LogUnavailable):
                await self._log.unpark(session_id)

    def halt(self, session_id: str) -> None:
        """Stop a session that this process answers, without waiting for the log to tell."""
        run = self._runs.get(session_id)
        if run is not None:
            run.halt()

    async def close(self, grace: float = 3.0) -> None:
        """End what is being written as truncated, save it, and stop."""
        for generation in list(self._generations.values()):
            if generation.writing:
                generation.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        await self._flusher.close()
        if self._pulsing is not None:
            self._pulsing.cancel()
        for task in list(self._tasks):
            task.cancel()
        leftover = [*self._tasks, *([self._pulsing] if self._pulsing else [])]
        if leftover:
            await asyncio.wait(leftover)


async def written(log: Log, key: str, epoch: int) -> str:
    """Return what the log has of an epoch; nothing where there is no log."""
    with contextlib.suppress(LogUnavailable):
        return (await log.read(key, epoch, 0)).text
    return ""


def _lost(run: Run, code: str, message: str) -> Reply:
    generation = run.generation
    epoch, text = (generation.tape.epoch, generation.tape.text()) if generation else (run.session.epoch, "")
    return Reply(epoch, text, Failed(code, message, retryable=True, retry_after_ms=2000))
