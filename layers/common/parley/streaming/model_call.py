"""Asks a model for one reply, with timeouts, retries, and fewer turns if the context is too long."""

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
# Finish reasons that count as an end only with text: a natural stop, and a model that would go on.
_NEEDS_TEXT = (FinishReason.STOP, FinishReason.TRUNCATED)
# Most doublings of the backoff while a server loads its model.
_LONGEST_BACKOFF = 4


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of a generation; times in seconds.

    - `first_token`: longest silence before any text.
    - `gap`: longest silence after the first text.
    - `total`: longest time for the reply.
    - `attempts`: most tries before the first token.
    - `backoff`: wait before the second try; it doubles.
    - `flush`: how long the writer gathers text for the log.
    - `lease`: how long the writer's lease in the log lasts.
    - `characters`: longest reply with its reasoning, in code points.
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
        """Seconds between looks at the log without a notification; short enough to stop within a second."""
        return min(0.4, self.lease / 3)


class ModelCall:
    """One request to a model, whose reply goes into a text buffer.

    `reasoned` counts the code points of the model's reasoning; `counted` is what the provider told of tokens.
    Both are the last attempt's: a user is charged once, however often a provider failed before.
    """

    def __init__(
        self,
        request: ModelRequest,
        models: ChatModels,
        limits: CallLimits,
        buffer: TextBuffer,
        deadline: float | None,
    ) -> None:
        """`deadline`, in the event loop's time, ends the reply. The model's row may override `limits`."""
        self._request = request
        self._models = models
        self._limits = _limits_of(request.model, limits)
        self._buffer = buffer
        self._deadline = deadline
        self.reasoned = 0
        self.counted: Counted | None = None

    async def end(self) -> End:
        """Ask until the model answers, and return how the reply ended."""
        request, limits = self._request, self._limits
        loop = asyncio.get_running_loop()
        begin = loop.time()
        total = begin + limits.total
        attempt = waits = 1
        shorter = last_try = False
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
                self._buffer.shorten(len(turns))
                shorter = True
                continue
            except ProviderFault as fault:
                self._report(fault, request, attempt)
                left = (total if self._deadline is None else min(total, self._deadline)) - loop.time()
                if fault.fault == "provider_loading":
                    # A server that loads its weights will answer: it gets as long as a first token.
                    left = min(left, begin + limits.first_token - loop.time())
                    wait = self._wait_before_retry(fault, min(waits, _LONGEST_BACKOFF), left)
                    if wait is None and not last_try and left > 0 and self._may_repeat(fault):
                        wait, last_try = max(left - 0.5, left / 2), True
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
        """Return the seconds to wait before the next try; None where another try is wrong or futile."""
        if not self._may_repeat(fault):
            return None
        wait = self._limits.backoff * 2 ** (attempt - 1) * (0.5 + random.random())  # noqa: S311 - jitter
        wait = max(wait, (fault.retry_after_ms or 0) / 1000)
        return wait if wait < left else None

    def _may_repeat(self, fault: ProviderFault) -> bool:
        return not self._buffer.length and fault.may_retry and fault.may_repeat

    async def _ask(self, request: ModelRequest, model: ChatModel, total: float) -> End:
        loop = asyncio.get_running_loop()
        buffer, limits = self._buffer, self._limits
        finish: Finish | None = None
        self.reasoned, self.counted = 0, None
        last = total if self._deadline is None else min(total, self._deadline)
        patience = limits.first_token
        buffer.waits = False
        # Rescheduling at every token would cost as much as the token: once a second is enough.
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
                    # A natural finish before any text may be followed by text, which takes it back. The first
                    # token is then still to come.
                    awaited = not buffer.length and (finish is None or finish.reason in _NEEDS_TEXT)
                    due = limits.first_token if awaited else limits.gap
                    if (now := loop.time()) >= moves or due != patience:
                        moves = now + slack
                        patience = due
                        timer.reschedule(min(last, moves + patience))
        except TimeoutError:
            # A finish reason without a later event is the end, even if the connection stays open.
            if finish is None:
                # Compare with the timer, not the clock: a timer may fire up to a millisecond early.
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
        """Return the end of a reply whose provider was silent too long; `total`: its whole time is over.

        Raises `ProviderFault`. It forbids another try: the provider has the request, and is only slow.
        """
        if total:
            if self._buffer.length or self._deadline is not None:
                return Completed(FinishReason.TRUNCATED)
            raise ProviderFault("provider_timeout", "The model did not answer in time.")
        raise ProviderFault("provider_timeout", "The model went silent.", retryable=True, may_repeat=False)


def _retry_after_ms(fault: ProviderFault, attempt: int, limits: CallLimits) -> int | None:
    """Return the milliseconds after which a try may succeed: the provider's word, else one more backoff."""
    if fault.retry_after_ms is None and fault.may_retry:
        return round(limits.backoff * 2.0**attempt * 1000)
    return fault.retry_after_ms


def _limits_of(model: Model, limits: CallLimits) -> CallLimits:
    """Return the limits with the overrides of the model's own row."""
    options = model.options
    first_token, attempts = options.first_token_seconds, options.attempts
    if first_token is None and attempts is None:
        return limits
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
