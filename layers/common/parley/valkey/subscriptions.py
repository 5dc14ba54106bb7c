"""One subscription a process: rings the bells of those who follow a generation."""

import asyncio
import contextlib

import redis.asyncio
from redis.exceptions import RedisError

from parley.support.wakeup import Bell, Bells

_FAULTS = (RedisError, OSError, TimeoutError)


class Watcher:
    """Shares one pub/sub connection among all watches.

    News may be lost (a reconnect, a failover), so whoever watches also looks now and then by itself.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._listening: asyncio.Task[None] | None = None
        self._bells: dict[bytes, Bells] = {}
        self._lock = asyncio.Lock()

    async def watch(self, channel: str, bell: Bell) -> "Watching":
        """Ring `bell` at every message on `channel`, until closed."""
        name = channel.encode()
        async with self._lock:
            bells = self._bells.get(name)
            if bells is None:
                pubsub = self._pubsub
                if pubsub is None:
                    pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                await pubsub.subscribe(name)
                self._pubsub = pubsub
                bells = self._bells.setdefault(name, Bells())
                if self._listening is None or self._listening.done():
                    self._listening = asyncio.create_task(self._listen(pubsub))
            bells.add(bell)
        return Watching(self, name, bell)

    async def forget(self, name: bytes, bell: Bell) -> None:
        """End a watch; the last one of a channel unsubscribes."""
        async with self._lock:
            bells = self._bells.get(name)
            if bells is None:
                return
            bells.discard(bell)
            if not bells:
                del self._bells[name]
                if self._pubsub is not None:
                    with contextlib.suppress(*_FAULTS):
                        async with asyncio.timeout(0.25):
                            await self._pubsub.unsubscribe(name)

    async def _listen(self, pubsub: "redis.asyncio.client.PubSub") -> None:
        while True:
            try:
                message = await pubsub.get_message(timeout=None)
            except _FAULTS:
                # Missed news: everybody looks for himself, and again once subscribed anew.
                self._ring_everybody()
                await asyncio.sleep(0.5)
                continue
            if message is not None and message["type"] == "message":
                self._bells.get(message["channel"], Bells()).ring()
            elif not pubsub.subscribed:
                await asyncio.sleep(0.05)

    def _ring_everybody(self) -> None:
        for bells in self._bells.values():
            bells.ring()

    async def close(self) -> None:
        """Unsubscribe from everything and close the connection."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        if self._pubsub is not None:
            with contextlib.suppress(*_FAULTS):
                await self._pubsub.aclose()  # type: ignore[no-untyped-call]


class Watching:
    """`ports.Watch` of one bell on one channel."""

    def __init__(self, watcher: Watcher, name: bytes, bell: Bell) -> None:
        self._watcher = watcher
        self._name = name
        self._bell = bell

    async def close(self) -> None:
        await self._watcher.forget(self._name, self._bell)
