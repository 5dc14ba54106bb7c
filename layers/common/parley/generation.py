"""One production of one reply, as this process takes part in it: as its writer or as a follower."""

import asyncio
import dataclasses
import random
from dataclasses import dataclass

from msgspec.structs import replace

from parley.bell import Bell, Bells
from parley.context import shortened
from parley.conversation import Model, Reply
from parley.encoding import is_blank
from parley.errors import ContextTooLong, LogUnavailable, ProviderFault
from parley.events import (
    Completed,
    Counted,
    Delta,
    End,
    Failed,
    Finish,
    FinishReason,
    Reasoning,
    StreamState,
)
from parley.flusher import Flusher
from parley.logs import logger
from parley.outcomes import Flushed, Slice
from parley.ports import ChatModel, ChatModels, Log, Question
from parley.quota import spent
from parley.tape import Tape

_log = logger("generation")
_NOBODY: frozenset[str] = frozenset()
# The ends that are none without text: a natural one, and one of a model that would go on.
_NEEDS_TEXT = (FinishReason.STOP, FinishReason.TRUNCATED)
# Backoff doubles no more than this often while a server loads its model.
_LONGEST_BACKOFF = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a generation may take, in seconds, and how often it is tried.

    `first_token` is the longest silence before any text, `gap` the longest after it.
    """

    first_token: float
    gap: float
    total: float
    attempts: int
    backoff: float
    flush: float
    lease: float
    characters: int

    @property
    def look(self) -> float:
        """How often the log is looked at when nothing rings: often enough to stop within a second."""
        return min(0.4, self.lease / 3)


class Generation:
    """A tape and the task that feeds it.

    `lost` says that the tape will get no end: another writer has the generation, its writer died, or
    the log is gone. Whoever follows then joins anew. `stops` are sessions that asked to stop. `asker` is
    the session on whose behalf the model is asked.
    `begun` is what a follower found in the log when it joined.
    `watchers` are rung when any of that, or the end, changes; the tape's own bells at every text.
    `reasoned` are the code points that its model has reasoned, `counted` what its provider told of tokens.
    """

    __slots__ = (
        "_cut", "asker", "attached", "begun", "counted", "deadline", "key", "logged", "lost", "owner",
        "reasoned", "stops", "tape", "task", "watchers", "writing",
    )  # fmt: skip

    def __init__(self, key: str, epoch: int, owner: str, *, writing: bool) -> None:
        self.key = key
        self.owner = owner
        self.writing = writing
        self.tape = Tape(epoch)
        self.lost = False
        self.stops = _NOBODY
        self.watchers = Bells()
        self.attached: set[str] = set()
        self.asker: str | None = None
        self.logged = True
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        self.begun: Slice | None = None
        self.reasoned = 0
        self.counted: Counted | None = None
        self._cut = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come from here."""
        return self.lost or self.tape.end is not None

    @property
    def vouching(self) -> bool:
        """Whether this process may say that the generation is alive."""
        return not self.over and (self.writing or self.logged)

    def reply(self) -> Reply:
        """Return the finished reply."""
        assert self.tape.end is not None
        return Reply(self.tape.epoch, self.tape.text(), self.tape.end)

    def charged(self, end: End) -> End:
        """Return an end with what it cost, unless it has the provider's whole count."""
        if isinstance(end, Completed) and end.usage is not None:
            return end
        return replace(end, spent=spent(end, self.counted, self.tape.length + self.reasoned))

    def lose(self) -> None:
        """Note that this tape will get no end, and stop feeding it."""
        if not self.over:
            self.lost = True
            self.watchers.ring()
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
            self.watchers.ring()

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
        self, question: Question, models: ChatModels, flusher: Flusher | None, limits: Limits
    ) -> None:
        """Have the model answer and write what it says; `flusher` None keeps it in this process."""
        if flusher is not None:
            flusher.add(self)
        else:
            self.logged = False
        try:
            try:
                end = await self._produce(question, models, limits)
            except asyncio.CancelledError:
                if not self._cut or self.over:
                    raise
                end = Completed(FinishReason.TRUNCATED)
            except Exception:
                _log.exception("generation_broke", extra={"provider": question.model.provider})
                end = Failed("internal", "Something went wrong here; it is not your fault.", True)
            end = self.charged(end)
            if flusher is not None and not self.lost:
                await self._end(flusher, end)
            if not self.lost:
                self.tape.finish(end)
                self.watchers.ring()
        finally:
            if flusher is not None:
                flusher.discard(self)
            if not self.over:
                self.lose()

    async def _end(self, flusher: Flusher, end: End) -> None:
        try:
            if not await flusher.end(self, Reply(self.tape.epoch, self.tape.text(), end)):
                self.lose()
        except LogUnavailable:
            self.logged = False

    async def _produce(self, question: Question, models: ChatModels, limits: Limits) -> End:
        limits = _limits_of(question.model, limits)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        total = begin + limits.total
        attempt = waits = 1
        shorter = False
        while True:
            try:
                return await self._ask(question, models.of(question.model.provider), limits, total)
            except ContextTooLong as fault:
                turns = None if self.tape.length else shortened(question.turns, fault, again=shorter)
                if turns is None:
                    self._report(fault, question, attempt)
                    return Failed(fault.fault, fault.message, fault.may_retry)
                _log.info("context_shortened", extra={"turns": len(turns), "before": len(question.turns)})
                question = dataclasses.replace(question, turns=turns)
                shorter = True
                continue
            except ProviderFault as fault:
                self._report(fault, question, attempt)
                left = total - loop.time()
                if fault.fault == "provider_loading":
                    # A server that reads its weights will answer: it is waited for as long as for a first
                    # token.
                    left = min(left, begin + limits.first_token - loop.time())
                    wait = self._wait_before_retry(fault, min(waits, _LONGEST_BACKOFF), limits, left)
                else:
                    wait = None
                    if attempt < limits.attempts:
                        wait = self._wait_before_retry(fault, attempt, limits, min(left, limits.gap))
                    attempt += 1
                if wait is None:
                    after = _retry_after_ms(fault, min(waits, _LONGEST_BACKOFF), limits)
                    return Failed(fault.fault, fault.message, fault.may_retry, after)
            self.tape.tell(StreamState.RETRYING)
            await asyncio.sleep(wait)
            waits += 1

    def _report(self, fault: ProviderFault, question: Question, attempt: int) -> None:
        fields = {"code": fault.fault, "provider": question.model.provider, "attempt": attempt}
        _log.warning("provider_fault", extra=fields)

    def _wait_before_retry(
        self, fault: ProviderFault, attempt: int, limits: Limits, left: float
    ) -> float | None:
        """Return how long to wait before asking again; None where asking again is wrong or futile."""
        if self.tape.length or not fault.may_retry or not fault.may_repeat:
            return None
        wait = limits.backoff * 2 ** (attempt - 1) * (0.5 + random.random())  # noqa: S311 - jitter
        wait = max(wait, (fault.retry_after_ms or 0) / 1000)
        if self.deadline is not None:
            left = min(left, self.deadline - asyncio.get_running_loop().time())
        return wait if wait < left else None

    async def _ask(self, question: Question, model: ChatModel, limits: Limits, total: float) -> End:
        loop = asyncio.get_running_loop()
        tape = self.tape
        finish: Finish | None = None
        self.reasoned, self.counted = 0, None
        last = total if self.deadline is None else min(total, self.deadline)
        patience = limits.first_token
        # A timer that moves with every token would cost as much as the token: it moves once a second.
        slack = min(1.0, limits.gap / 4)
        moves = loop.time() + slack
        stream = model.stream(question)
        try:
            async with asyncio.timeout_at(min(last, moves + patience)) as timer:
                async for event in stream:
                    if type(event) is Delta:
                        tape.append(event.text)
                        finish = None
                        if tape.length >= limits.characters:
                            return Completed(FinishReason.TRUNCATED)
                    elif type(event) is Finish:
                        finish = event
                    elif type(event) is Reasoning:
                        self.reasoned += len(event.text)
                        finish = None
                    elif type(event) is Counted:
                        self.counted = event
                    if (now := loop.time()) >= moves or (patience != limits.gap and (tape.length or finish)):
                        moves = now + slack
                        patience = limits.gap if tape.length or finish else limits.first_token
                        timer.reschedule(min(last, moves + patience))
        except TimeoutError:
            # A finish reason that nothing followed is the end, though the connection stays open.
            if finish is None:
                # Not by the clock: a timer may ring up to a millisecond early.
                return self._end_of_patience(total=timer.when() == last)
        finally:
            await _close(stream)
        if finish is None:
            if tape.length:
                return Completed(FinishReason.TRUNCATED)
            raise ProviderFault("provider_interrupted", "The model's reply was cut off.", retryable=True)
        if finish.reason in _NEEDS_TEXT and all(is_blank(piece) for piece in tape.pieces):
            if finish.usage is not None:
                self.counted = Counted(finish.usage.input_tokens, finish.usage.output_tokens)
            return Failed("empty_reply", "The model returned an empty reply.", retryable=True)
        return Completed(finish.reason, finish.provider_reason, finish.usage)

    def _end_of_patience(self, *, total: bool) -> End:
        """Return what a provider's silence makes of the reply; `total` says that its whole time is over.

        Raises `ProviderFault`. It is not asked again: it has the question, and only is slow.
        """
        if total:
            if self.tape.length or self.deadline is not None:
                return Completed(FinishReason.TRUNCATED)
            raise ProviderFault("provider_timeout", "The model did not answer in time.")
        raise ProviderFault("provider_timeout", "The model went silent.", retryable=True, may_repeat=False)

    async def follow(self, log: Log, limits: Limits) -> None:
        """Copy what another process writes onto the tape, until its end or its loss."""
        tape = self.tape
        bell = Bell()
        watch = None
        try:
            while True:
                part, self.begun = self.begun, None
                if part is None:
                    part = await log.read(self.key, tape.epoch, tape.length)
                if part.superseded:
                    return
                tape.append(part.text)
                self._stopped_by(part.stops)
                if part.end is not None:
                    tape.finish(part.end)
                    self.watchers.ring()
                    return
                if not part.alive:
                    return
                if watch is not None:
                    await bell.wait(limits.look)
                else:
                    # What there is was shown first, for to listen takes longer; having listened, one looks
                    # again: nothing is missed in between.
                    watch = await log.watch(self.key, bell)
        except LogUnavailable:
            self.logged = False
        finally:
            self.lose()
            if watch is not None:
                await watch.close()


def _retry_after_ms(fault: ProviderFault, attempt: int, limits: Limits) -> int | None:
    """Return when asking again may help: as the provider said, else after one more backoff."""
    if fault.retry_after_ms is None and fault.may_retry:
        return round(limits.backoff * 2.0**attempt * 1000)
    return fault.retry_after_ms


def _limits_of(model: Model, limits: Limits) -> Limits:
    """Return the limits with what the model's own row says."""
    options = model.options
    first_token, attempts = options.first_token_seconds, options.attempts
    return dataclasses.replace(
        limits,
        first_token=limits.first_token if first_token is None else first_token,
        attempts=limits.attempts if attempts is None else attempts,
    )


async def _close(stream: object) -> None:
    """Close a model's stream, which closes the provider's connection, even while being cancelled."""
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()
