"""Holds the state of one session's reply in this process."""

import asyncio
import time
from dataclasses import dataclass

from parley.domain.conversation import LeftOut, Reply, Session
from parley.domain.events import Failed, Source
from parley.domain.ports import ModelRequest
from parley.domain.prompt import above
from parley.streaming.generation import Generation
from parley.support.logs import logger
from parley.support.wakeup import Listeners, Wakeup

_logger = logger("runs")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's end. `saved`: the store has the reply; False while it is parked, or when it is lost."""

    reply: Reply
    saved: bool


class SessionRun:
    """One session's reply in this process. Readers read its fields and add themselves to its `listeners`."""

    __slots__ = (
        "deadline",
        "disabled",
        "dropped",
        "elections",
        "generation",
        "key",
        "left_out",
        "limit",
        "listeners",
        "opened",
        "request",
        "result",
        "session",
        "source",
        "stopping",
        "task",
        "wakeup",
    )  # fmt: skip

    def __init__(
        self, session: Session, key: str, request: ModelRequest | None, left_out: LeftOut | None = None
    ) -> None:
        """`left_out` is what the model's context does not take of the chat."""
        self.session = session
        self.key = key
        self.request = request
        self.left_out = left_out
        self.source = Source.JOINED
        self.generation: Generation | None = None
        self.result: RunResult | None = None
        self.limit: int | None = None
        self.deadline: float | None = None
        self.listeners = Listeners()
        self.wakeup = Wakeup()
        self.stopping = False
        self.disabled = False
        self.dropped = False
        self.elections = 0
        self.opened = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    def settle(self, reply: Reply, *, saved: bool) -> None:
        """Set the run's result, once, and notify the readers."""
        if self.result is None:
            self.result = RunResult(reply, saved)
            self.listeners.notify()

    def turn_to(self, generation: Generation) -> None:
        """Make the readers follow this generation; each listens to its buffer from its next `take` on."""
        self.generation = generation
        self.listeners.notify()

    def left_out_of(self, turns_sent: int | None) -> LeftOut | None:
        """Return what the model is not sent of this chat where it gets the newest `turns_sent` turns alone.

        `turns_sent` None: the provider refused none of the request's. The result None: nothing is left out.
        """
        if turns_sent is None or self.request is None:
            return self.left_out
        return above(self.request.turns[-turns_sent:])

    def lost(self, code: str, message: str) -> Reply:
        """Return the reply as far as this process knows it, ended by a retryable failure."""
        generation = self.generation
        epoch, text = (
            (generation.buffer.epoch, generation.buffer.text()) if generation else (self.session.epoch, "")
        )
        return Reply(epoch, text, Failed(code, message, retryable=True, retry_after_ms=2000))

    def halt(self) -> None:
        """Ask the run to stop soon."""
        self.stopping = True
        self.wakeup.notify()

    def report(self) -> None:
        """Write the one log line that the metrics are made of."""
        assert self.result is not None
        begun = self.generation.buffer.begun if self.generation is not None else None
        fields = {
            "source": self.source.value,
            "model": self.session.model.id,
            "status": self.result.reply.status.value,
            "saved": self.result.saved,
            "characters": len(self.result.reply.text),
            "seconds": round(time.monotonic() - self.opened, 3),
        }
        if begun is not None:
            # A joined generation may have begun before this run was opened.
            fields["first_token_ms"] = max(0, round((begun - self.opened) * 1000))
        _logger.info("reply_ended", extra=fields)
