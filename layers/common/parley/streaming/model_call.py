"""Has a model answer: how long it is waited for, how often it is asked, and with how many turns."""

import asyncio
import dataclasses
import random
from dataclasses import dataclass

from parley.domain.conversation import Model
from parley.domain.errors import ContextTooLong, ProviderFault
from parley.domain.events import (
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
from parley.domain.ports import ChatModel, ChatModels, ModelRequest
from parley.domain.prompt import shortened
from parley.streaming.text_buffer import TextBuffer
from parley.support.encoding import is_blank
from parley.support.logs import logger

_logger = logger("generation")
# The ends that are none without text: a natural one, and one of a model that would go on.
_NEEDS_TEXT = (FinishReason.STOP, FinishReason.TRUNCATED)
# Backoff doubles no more than this often while a server loads its model.
_LONGEST_BACKOFF = 4


@dataclass(frozen=True, slots=True)
class CallLimits:
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


class ModelCall:
    """One question on its way through a model, onto a tape.

    `reasoned` are the code points that the model has reasoned, `counted` what its provider told of tokens: of
    the last attempt, for a user is charged once, however often a provider failed before.
    """

    def __init__(
        self,
        request: ModelRequest,
        models: ChatModels,
        limits: CallLimits,
        buffer: TextBuffer,
        deadline: float | None,
    ) -> None:
        """`deadline`, in the event loop's time, is when the reply must end; the limits are the model's row's,
        too.
        """
        self._question = request
        self._models = models
        self._limits = _limits_of(request.model, limits)
        self._buffer = buffer
        self._deadline = deadline
        self.reasoned = 0
        self.counted: Counted | None = None

    async def end(self) -> End:
        """Ask until the model answers, and return how the reply ended."""
        request, limits = self._question, self._limits
        loop = asyncio.get_running_loop()
        begin = loop.time()
        total = begin + limits.total
        attempt = waits = 1
        shorter = False
        while True:
            try:
                return await self._ask(request, self._models.get(request.model.provider), total)
            except ContextTooLong as fault:
                turns = None if self._buffer.length else shortened(request.turns, fault, again=shorter)
                if turns is None:
                    self._report(fault, request, attempt)
                    return Failed(fault.fault, fault.message, fault.may_retry)
                _logger.info("context_shortened", extra={"turns": len(turns), "before": len(request.turns)})
                request = dataclasses.replace(request, turns=turns)
                shorter = True
                continue
            except ProviderFault as fault:
                self._report(fault, request, attempt)
                left = total - loop.time()
                if fault.fault == "provider_loading":
                    # A server that reads its weights will answer: it is waited for as long as for a first
                    # token.
                    left = min(left, begin + limits.first_token - loop.time())
                    wait = self._wait_before_retry(fault, min(waits, _LONGEST_BACKOFF), left)
                else:
                    wait = None
                    if attempt < limits.attempts:
                        wait = self._wait_before_retry(fault, attempt, min(left, limits.gap))
                    attempt += 1
                if wait is None:
                    after = _retry_after_ms(fault, min(waits, _LONGEST_BACKOFF), limits)
                    return Failed(fault.fault, fault.message, fault.may_retry, after)
            self._buffer.tell(StreamState.RETRYING)
            await asyncio.sleep(wait)
            waits += 1

    def _report(self, fault: ProviderFault, request: ModelRequest, attempt: int) -> None:
        fields = {"code": fault.fault, "provider": request.model.provider, "attempt": attempt}
        _logger.warning("provider_fault", extra=fields)

    def _wait_before_retry(self, fault: ProviderFault, attempt: int, left: float) -> float | None:
        """Return how long to wait before asking again; None where asking again is wrong or futile."""
        if self._buffer.length or not fault.may_retry or not fault.may_repeat:
            return None
        wait = self._limits.backoff * 2 ** (attempt - 1) * (0.5 + random.random())  # noqa: S311 - jitter
        wait = max(wait, (fault.retry_after_ms or 0) / 1000)
        if fault.fault == "provider_loading":
            wait = min(wait, max(left - 0.5, left / 2))  # once more, shortly before it is given up
        if self._deadline is not None:
            left = min(left, self._deadline - asyncio.get_running_loop().time())
        return wait if wait < left else None

    async def _ask(self, request: ModelRequest, model: ChatModel, total: float) -> End:
        loop = asyncio.get_running_loop()
        buffer, limits = self._buffer, self._limits
        finish: Finish | None = None
        self.reasoned, self.counted = 0, None
        last = total if self._deadline is None else min(total, self._deadline)
        patience = limits.first_token
        buffer.waits = False
        # A timer that moves with every token would cost as much as the token: it moves once a second.
        slack = min(1.0, limits.gap / 4)
        moves = loop.time() + slack
        stream = model.stream(request)
        try:
            async with asyncio.timeout_at(min(last, moves + patience)) as timer:
                async for event in stream:
                    if type(event) is Delta:
                        buffer.append(event.text[: max(0, limits.characters - buffer.length)])
                        finish = None
                        if buffer.length >= limits.characters:
                            return Completed(FinishReason.TRUNCATED)
                    elif type(event) is Finish:
                        finish = event
                    elif type(event) is Reasoning:
                        self.reasoned += len(event.text)
                        finish = None
                        if buffer.length + self.reasoned >= limits.characters:
                            return Completed(FinishReason.TRUNCATED)
                    elif type(event) is Counted:
                        self.counted = event
                    # A natural end before any text may be taken back by it: then the first token is still to
                    # come.
                    awaited = not buffer.length and (finish is None or finish.reason in _NEEDS_TEXT)
                    due = limits.first_token if awaited else limits.gap
                    if (now := loop.time()) >= moves or due != patience:
                        moves = now + slack
                        patience = due
                        timer.reschedule(min(last, moves + patience))
        except TimeoutError:
            # A finish reason that nothing followed is the end, though the connection stays open.
            if finish is None:
                # Not by the clock: a timer may ring up to a millisecond early.
                return self._end_of_patience(total=timer.when() == last)
        finally:
            await _close(stream)
        if finish is None:
            if buffer.length:
                return Completed(FinishReason.TRUNCATED)
            raise ProviderFault("provider_interrupted", "The model's reply was cut off.", retryable=True)
        if finish.reason in _NEEDS_TEXT and all(is_blank(piece) for piece in buffer.pieces):
            if finish.usage is not None:
                self.counted = Counted(finish.usage.input_tokens, finish.usage.output_tokens)
            return Failed("empty_reply", "The model returned an empty reply.", retryable=True)
        return Completed(finish.reason, finish.provider_reason, finish.usage)

    def _end_of_patience(self, *, total: bool) -> End:
        """Return what a provider's silence makes of the reply; `total` says that its whole time is over.

        Raises `ProviderFault`. It is not asked again: it has the question, and only is slow.
        """
        if total:
            if self._buffer.length or self._deadline is not None:
                return Completed(FinishReason.TRUNCATED)
            raise ProviderFault("provider_timeout", "The model did not answer in time.")
        raise ProviderFault("provider_timeout", "The model went silent.", retryable=True, may_repeat=False)


def _retry_after_ms(fault: ProviderFault, attempt: int, limits: CallLimits) -> int | None:
    """Return when asking again may help: as the provider said, else after one more backoff."""
    if fault.retry_after_ms is None and fault.may_retry:
        return round(limits.backoff * 2.0**attempt * 1000)
    return fault.retry_after_ms


def _limits_of(model: Model, limits: CallLimits) -> CallLimits:
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
