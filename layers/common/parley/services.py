"""Everything that a process works with."""

from dataclasses import dataclass
from typing import Protocol

from parley.domain.ports import ChatModels, Log, Store
from parley.settings import Settings
from parley.streaming.session_runner import SessionRunner
from parley.usecases.cached_replies import CachedReplies


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
    runner: SessionRunner
    cached_replies: CachedReplies
    verifier: Verifier | None = None

    async def close(self) -> None:
        """End what runs, save it, and close every connection."""
        await self.runner.close()
        await self.models.close()
        await self.log.close()
        await self.store.close()
