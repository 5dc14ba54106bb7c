"""One session's reply, as this process takes part in it."""

import asyncio
import time
from dataclasses import dataclass

from parley.bell import Bell, ring_all
from parley.conversation import Reply, Session
from parley.events import Failed, Source
from parley.generation import Generation
from parley.ports import Question


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
