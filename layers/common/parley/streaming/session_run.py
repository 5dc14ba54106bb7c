"""One session's reply, as this process takes part in it."""

import asyncio
import time
from dataclasses import dataclass

from parley.domain.conversation import Reply, Session
from parley.domain.events import Failed, Source
from parley.domain.ports import Question
from parley.streaming.generation import Generation
from parley.support.logs import logger
from parley.support.wakeup import Bell, Bells

_log = logger("runs")


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a run: the reply as it is stored, or will be once `saved` can become true."""

    reply: Reply
    saved: bool


class Run:
    """One session's reply in this process. Readers look at it, and hang their bells on it."""

    __slots__ = (
        "answer", "bell", "bells", "deadline", "disabled", "generation", "key", "limit", "opened",
        "productions", "question", "session", "source", "stopping", "task",
    )  # fmt: skip

    def __init__(self, session: Session, key: str, question: Question | None) -> None:
        self.session = session
        self.key = key
        self.question = question
        self.source = Source.JOINED
        self.generation: Generation | None = None
        self.answer: Answer | None = None
        self.limit: int | None = None
        self.deadline: float | None = None
        self.bells = Bells()
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
            self.bells.ring()

    def turn_to(self, generation: Generation) -> None:
        """Make the readers follow this generation; they hang their bells on its tape when they look."""
        self.generation = generation
        self.bells.ring()

    def lost(self, code: str, message: str) -> Reply:
        """Return the reply as far as it is known here, ended by a failure that may pass."""
        generation = self.generation
        epoch, text = (
            (generation.tape.epoch, generation.tape.text()) if generation else (self.session.epoch, "")
        )
        return Reply(epoch, text, Failed(code, message, retryable=True, retry_after_ms=2000))

    def halt(self) -> None:
        """Have the run stop soon."""
        self.stopping = True
        self.bell.ring()

    def report(self) -> None:
        """Write the one line that metrics are made of."""
        assert self.answer is not None
        begun = self.generation.tape.begun if self.generation is not None else None
        fields = {
            "source": self.source.value,
            "model": self.session.model.id,
            "status": self.answer.reply.status.value,
            "saved": self.answer.saved,
            "characters": len(self.answer.reply.text),
            "seconds": round(time.monotonic() - self.opened, 3),
        }
        if begun is not None:
            fields["first_token_ms"] = max(0, round((begun - self.opened) * 1000))
        _log.info("reply_ended", extra=fields)
