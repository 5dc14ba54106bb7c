"""What the routes work with, and how they get it."""

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

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
    verifier: Verifier | None = None

    async def close(self) -> None:
        """End what runs, save it, and close every connection."""
        await self.runs.close()
        await self.models.close()
        await self.log.close()
        await self.store.close()


async def _of_request(request: Request) -> Services:
    # A coroutine function, since FastAPI runs any other in a thread.
    return cast("Services", request.app.state.services())


Its = Annotated[Services, Depends(_of_request)]
