"""One production of one reply, as this process takes part in it: as its writer or as a follower."""

import asyncio

from msgspec.structs import replace

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, End, Failed, FinishReason
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


class Generation:
    """A tape and the task that feeds it.

    `lost` says that the tape will get no end: another writer has the generation, its writer died, or
    the log is gone. Whoever follows then joins anew. `stops` are sessions that asked to stop. `asker` is
    the session on whose behalf the model is asked.
    `begun` is what a follower found in the log when it joined.
    `watchers` are rung when any of that, or the end, changes; the tape's own bells at every text.
    """

    __slots__ = (
        "_call",
        "_cut",
        "asker",
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
        self.logged = True
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        self.begun: Slice | None = None
        self._call: ModelCall | None = None
        self._cut = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come from here."""
        return self.lost or self.buffer.end is not None

    @property
    def renewable(self) -> bool:
        """Whether this process may say that the generation is alive."""
        return not self.over and (self.writing or self.logged)

    def reply(self) -> Reply:
        """Return the finished reply."""
        assert self.buffer.end is not None
        return Reply(self.buffer.epoch, self.buffer.text(), self.buffer.end)

    def charged(self, end: End) -> End:
        """Return an end with what it cost, unless it has the provider's whole count."""
        if isinstance(end, Completed) and end.usage is not None:
            return end
        reasoned, counted = (0, None) if self._call is None else (self._call.reasoned, self._call.counted)
        return replace(end, spent=spent(end, counted, self.buffer.length + reasoned))

    def lose(self) -> None:
        """Note that this tape will get no end, and stop feeding it."""
        if not self.over:
            self.lost = True
            self.watchers.notify()
        self._cancel()

    def cut(self) -> None:
        """End the reply here, as truncated: the process has to go."""
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
        """Note what the log says of the sessions; return whether none wants the reply any more."""
        self.logged = True
        self._stopped_by(outcome.stops)
        # A log that was lost meanwhile may have forgotten who is attached here.
        return bool(outcome.stops) and not outcome.attached and not self.attached - outcome.stops

    def missed(self) -> None:
        """Note that the log is away."""
        self.logged = False

    async def write(
        self, request: ModelRequest, models: ChatModels, flusher: Flusher | None, limits: CallLimits
    ) -> None:
        """Have the model answer and write what it says; `flusher` None keeps it in this process."""
        if flusher is not None:
            flusher.add(self)
        else:
            self.logged = False
        try:
            try:
                self._call = ModelCall(request, models, limits, self.buffer, self.deadline)
                end = await self._call.end()
            except asyncio.CancelledError:
                if not self._cut or self.over:
                    raise
                end = Completed(FinishReason.TRUNCATED)
            except Exception:
                _logger.exception("generation_broke", extra={"provider": request.model.provider})
                end = Failed("internal", "Something went wrong here; it is not your fault.", True)
            end = self.charged(end)
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
        """Copy what another process writes onto the tape, until its end or its loss."""
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
                    # What there is was shown first, for to listen takes longer; having listened, one looks
                    # again: nothing is missed in between.
                    watch = await log.watch(self.key, wakeup)
        except LogUnavailable:
            self.logged = False
        finally:
            self.lose()
            if watch is not None:
                await watch.close()
