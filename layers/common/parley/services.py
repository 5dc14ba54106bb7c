"""Holds the services that a process works with."""

from dataclasses import dataclass
from typing import Protocol

from parley.domain.ids import SessionIds
from parley.domain.ports import ChatModels, Log, Store
from parley.settings import Settings
from parley.streaming.session_runner import SessionRunner
from parley.usecases.cached_replies import CachedReplies
from parley.usecases.health import HealthCheck


class Verifier(Protocol):
    """Verifies access tokens."""

    async def verify(self, token: str) -> str:
        """Return the subject of a valid token. Raises `Unauthorized`."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one process. `verifier` is set where tokens are required."""

    settings: Settings
    store: Store
    log: Log
    models: ChatModels
    runner: SessionRunner
    cached_replies: CachedReplies
    session_ids: SessionIds
    health_check: HealthCheck
    verifier: Verifier | None = None

    async def close(self) -> None:
        """End the runs, save their replies, and close every connection."""
        await self.runner.close()
        await self.models.close()
        await self.log.close()
        await self.store.close()
