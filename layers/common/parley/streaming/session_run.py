"""One session's reply, as this process takes part in it."""

import asyncio
import time
from dataclasses import dataclass

from parley.domain.conversation import Reply, Session
from parley.domain.events import Failed, Source
from parley.domain.ports import ModelRequest
from parley.streaming.generation import Generation
from parley.support.logs import logger
from parley.support.wakeup import Listeners, Wakeup

_logger = logger("runs")


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run: the reply as it is stored, or will be once `saved` can become true."""

    reply: Reply
    saved: bool


class SessionRun:
    """One session's reply in this process. Readers look at it, and hang their bells on it."""

    __slots__ = (
        "deadline",
        "disabled",
        "generation",
        "key",
        "limit",
        "listeners",
        "opened",
        "productions",
        "request",
        "result",
        "session",
        "source",
        "stopping",
        "task",
        "wakeup",
    )  # fmt: skip

    def __init__(self, session: Session, key: str, request: ModelRequest | None) -> None:
        self.session = session
        self.key = key
        self.request = request
        self.source = Source.JOINED
        self.generation: Generation | None = None
        self.result: RunResult | None = None
        self.limit: int | None = None
        self.deadline: float | None = None
        self.listeners = Listeners()
        self.wakeup = Wakeup()
        self.stopping = False
        self.disabled = False
        self.productions = 0
        self.opened = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    def settle(self, reply: Reply, *, saved: bool) -> None:
        """Give the run its end; only the first counts."""
        if self.result is None:
            self.result = RunResult(reply, saved)
            self.listeners.notify()

    def turn_to(self, generation: Generation) -> None:
        """Make the readers follow this generation; they hang their bells on its tape when they look."""
        self.generation = generation
        self.listeners.notify()

    def lost(self, code: str, message: str) -> Reply:
        """Return the reply as far as it is known here, ended by a failure that may pass."""
        generation = self.generation
        epoch, text = (
            (generation.buffer.epoch, generation.buffer.text()) if generation else (self.session.epoch, "")
        )
        return Reply(epoch, text, Failed(code, message, retryable=True, retry_after_ms=2000))

    def halt(self) -> None:
        """Have the run stop soon."""
        self.stopping = True
        self.wakeup.notify()

    def report(self) -> None:
        """Write the one line that metrics are made of."""
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
            fields["first_token_ms"] = max(0, round((begun - self.opened) * 1000))
        _logger.info("reply_ended", extra=fields)
