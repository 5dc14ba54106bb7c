"""What the routes work with, and how they get it."""

from dataclasses import dataclass
from typing import Protocol, cast

from fastapi import Request

from parley.answers import Answers
from parley.ports import ChatModels, Log, Store
from parley.runs import Runs
from parley.settings import Settings


class Verifier(Protocol):
    """Says whose token this is."""

    async def verify(self, token: str) -> str:
        """Return the subject of a valid token; raises `Unauthorized`."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What a process works with. `verifier` is there where tokens are needed."""

    settings: Settings
    store: Store
    log: Log
    models: ChatModels
    runs: Runs
    answers: Answers
    verifier: Verifier | None = None

    async def close(self) -> None:
        """End what runs, save it, and close every connection."""
        await self.runs.close()
        await self.models.close()
        await self.log.close()
        await self.store.close()


def services_of(request: Request) -> Services:
    """Return what the application works with."""
    return cast("Services", request.app.state.services())
