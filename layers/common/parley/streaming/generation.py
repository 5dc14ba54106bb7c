"""Runs one production of one reply in this process, as its writer or as a follower."""

import asyncio
from typing import Protocol

from msgspec.structs import replace

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, End, Failed, FinishReason, Spent
from parley.domain.limits import spent
from parley.domain.ports import ChatModels, Log, ModelRequest
from parley.domain.results import Flushed, Slice
from parley.streaming.flusher import Flusher
from parley.streaming.model_call import CallLimits, ModelCall
from parley.streaming.text_buffer import TextBuffer
from parley.support.logs import logger
from parley.support.wakeup import Listeners, Wakeup

_logger = logger("generation")
_NOBODY: frozenset[str] = frozenset()


class Askers(Protocol):
    """Replaces askers that left, as a generation sees it."""

    def look(self, generation: "Generation") -> None:
        """Have the asker replaced soon, if it is due."""
        ...

    async def settle(self, generation: "Generation") -> None:
        """Have the asker replaced where it is gone, before the generation's end is shown."""
        ...


class Generation:
    """A text buffer and the task that feeds it. States: `feeding -> ended | lost`.

    `ended`: `buffer.end` is set. `lost`: the buffer will get no end, because another writer has the
    generation, its writer died, or the log is gone. A run that follows a lost generation joins anew.

    - `key`: names the generation; equal questions have equal keys.
    - `owner`: the writer's name in the lease.
    - `writing`: True for the writer, False for a follower.
    - `buffer`: the text, its epoch and its end.
    - `lost`: the state `lost`.
    - `stops`: ids of the sessions that asked to stop.
    - `watchers`: notified of `lost`, `stops` and the end; `buffer.listeners` are notified of every text.
    - `attached`: ids of this process's sessions that keep to the generation.
    - `asker`: the session on whose behalf the model is asked, and which is charged, in whichever process.
    - `asker_due`: the event loop's time from which on the asker is replaced, once it has left; else None.
    - `logged`: whether the log is in use: False without one, and after it failed to answer.
    - `task`: feeds the buffer; None until the first run has attached.
    - `deadline`: the event loop's time at which the reply must end; None for no deadline.
    - `begun`: the slice of the log that came with a follower's join; None once it is read.
    """

    __slots__ = (
        "_askers",
        "_call",
        "_cut",
        "asker",
        "asker_due",
        "attached",
        "begun",
        "buffer",
        "deadline",
        "key",
        "logged",
        "lost",
        "owner",
        "stops",
        "task",
        "watchers",
        "writing",
    )  # fmt: skip

    def __init__(self, key: str, epoch: int, owner: str, *, writing: bool) -> None:
        self.key = key
        self.owner = owner
        self.writing = writing
        self.buffer = TextBuffer(epoch)
        self.lost = False
        self.stops = _NOBODY
        self.watchers = Listeners()
        self.attached: set[str] = set()
        self.asker: str | None = None
        self.asker_due: float | None = None
        self.logged = True
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        self.begun: Slice | None = None
        self._askers: Askers | None = None
        self._call: ModelCall | None = None
        self._cut = False

    @property
    def over(self) -> bool:
        """Whether the generation has ended or is lost."""
        return self.lost or self.buffer.end is not None

    @property
    def renewable(self) -> bool:
        """Whether this process may renew leases for the generation."""
        # A follower without a log cannot tell whether the writer still lives, so it must not renew for it.
        return not self.over and (self.writing or self.logged)

    def reply(self) -> Reply:
        """Return the finished reply."""
        assert self.buffer.end is not None
        return Reply(self.buffer.epoch, self.buffer.text(), self.buffer.end)

    def charged(self, end: End) -> End:
        """Return the end with the tokens to charge, unless the end has the provider's whole count."""
        if isinstance(end, Completed) and end.usage is not None:
            return end
        whole = self.buffer.end
        if whole is not None:
            # A session that stopped here, and whose stop the writer learned too late: it is still the asker.
            usage = whole.usage if isinstance(whole, Completed) else None
            known = whole.spent if usage is None else Spent(usage.input_tokens, usage.output_tokens)
            if known is not None:
                return replace(end, spent=known)
        reasoned, counted = (0, None) if self._call is None else (self._call.reasoned, self._call.counted)
        return replace(end, spent=spent(end, counted, self.buffer.length + reasoned))

    def so_far(self) -> Spent:
        """Return the tokens to charge for what was produced until now."""
        if self.task is None or self.asker is None:
            return Spent(0, 0)
        found = self.charged(Completed(FinishReason.STOPPED)).spent
        assert found is not None
        return found

    def lose(self) -> None:
        """Mark the generation as lost, unless it has ended, and cancel its task."""
        if not self.over:
            self.lost = True
            self.watchers.notify()
        self._cancel()

    def cut(self) -> None:
        """End the reply here as truncated, because the process is shutting down."""
        self._cut = True
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def _stopped_by(self, stops: frozenset[str]) -> None:
        if stops != self.stops:
            self.stops = stops
            self.watchers.notify()

    def took(self, outcome: Flushed) -> bool:
        """Note what a flush says of the sessions; return whether every session has stopped."""
        self.logged = True
        self._stopped_by(outcome.stops)
        if self.asker_due is None and self.asker in self.stops:
            self.asker_due = 0.0
        if self.asker_due is not None and (outcome.attached or self.attached - self.stops):
            assert self._askers is not None
            self._askers.look(self)
        # A log that was lost meanwhile may have forgotten sessions that are attached here.
        return bool(outcome.stops) and not outcome.attached and not self.attached - outcome.stops

    def missed(self) -> None:
        """Note that the log did not answer."""
        self.logged = False

    async def write(
        self,
        request: ModelRequest,
        models: ChatModels,
        flusher: Flusher | None,
        limits: CallLimits,
        askers: Askers,
    ) -> None:
        """Ask the model and write its reply into the buffer and the log. `flusher` None writes no log."""
        self._askers = askers
        if flusher is not None:
            flusher.add(self)
        else:
            self.logged = False
        try:
            try:
                self._call = ModelCall(request, models, limits, self.buffer, self.deadline)
                end = await self._call.end()
            except asyncio.CancelledError:
                # Only `cut` makes an end of the cancellation. `lose` cancels too, and gets none.
                if not self._cut or self.over:
                    raise
                end = Completed(FinishReason.TRUNCATED)
            except Exception:
                _logger.exception("generation_broke", extra={"provider": request.model.provider})
                end = Failed("internal", "Something went wrong here; it is not your fault.", True)
            end = self.charged(end)
            # A session whose process sees the end is saved at once, so the asker must be known by then.
            if not self.lost:
                try:
                    await askers.settle(self)
                except asyncio.CancelledError:
                    # The end is there, so a process that shuts down saves it all the same.
                    if not self._cut or self.over:
                        raise
            # The log gets the end before the readers: a writer that the log fences off must not show one.
            if flusher is not None and not self.lost:
                await self._end(flusher, end)
            if not self.lost:
                self.buffer.finish(end)
                self.watchers.notify()
        finally:
            if flusher is not None:
                flusher.discard(self)
            if not self.over:
                self.lose()

    async def _end(self, flusher: Flusher, end: End) -> None:
        try:
            if not await flusher.end(self, Reply(self.buffer.epoch, self.buffer.text(), end)):
                self.lose()
        except LogUnavailable:
            self.logged = False

    async def follow(self, log: Log, limits: CallLimits) -> None:
        """Copy into the buffer what another process writes, until its end or its loss."""
        buffer = self.buffer
        wakeup = Wakeup()
        watch = None
        try:
            while True:
                part, self.begun = self.begun, None
                if part is None:
                    part = await log.read(self.key, buffer.epoch, buffer.length)
                if part.superseded:
                    return
                buffer.append(part.text)
                self._stopped_by(part.stops)
                if part.end is not None:
                    buffer.finish(part.end)
                    self.watchers.notify()
                    return
                if not part.alive:
                    return
                if watch is not None:
                    await wakeup.wait(limits.look)
                else:
                    # Subscribe after the first read, because subscribing takes longer and readers should see
                    # the text at once. The loop then reads again, so no entry in between is missed.
                    watch = await log.watch(self.key, wakeup)
        except LogUnavailable:
            self.logged = False
        finally:
            self.lose()
            if watch is not None:
                await watch.close()
