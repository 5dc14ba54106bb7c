"""A circuit breaker: while a dependency fails, requests fail at once instead of waiting for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from parley.domain.errors import LogUnavailable
from parley.support.logs import logger

T = TypeVar("T")
_logger = logger("valkey")


class CircuitBreaker:
    """After a failure, fails every call at once until a probe succeeds.

    The probe runs in its own task, so a silent server costs one timeout, once. `faults` are the errors that
    open the breaker. `pause` is the seconds between two probes. Calls and probes must have their own
    timeouts.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        *,
        faults: tuple[type[Exception], ...],
        pause: float = 0.5,
    ) -> None:
        self._probe = probe
        self._faults = faults
        self._pause = pause
        self._probing: asyncio.Task[None] | None = None
        self.closed = True

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `work`. Raises `LogUnavailable` for the errors in `faults`, and while open."""
        if not self.closed:
            self._keep_probing()
            raise LogUnavailable
        try:
            return await work()
        except self._faults as fault:
            self._open(getattr(fault, "code", type(fault).__name__))
        raise LogUnavailable from None

    def _open(self, reason: str) -> None:
        if self.closed:
            self.closed = False
            _logger.warning("log_unavailable", extra={"error": reason})
        self._keep_probing()

    def _keep_probing(self) -> None:
        # A probe in the event loop of an earlier invocation never ends.
        if self._probing is None or self._probing.done() or self._probing.get_loop() is not _loop():
            self._probing = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        while not self.closed:
            await asyncio.sleep(self._pause)
            try:
                await self._probe()
            except self._faults:
                continue
            self.closed = True
            _logger.info("log_available")

    async def close(self) -> None:
        """Cancel the probe."""
        if self._probing is not None and not self._probing.done():
            self._probing.cancel()
            await asyncio.wait({self._probing})


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
