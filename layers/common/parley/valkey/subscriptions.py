"""One pub/sub connection for a process, which notifies the followers of each generation."""

import asyncio
import contextlib

import redis.asyncio
from redis.exceptions import AuthenticationError, RedisError

from parley.support.wakeup import Listeners, Wakeup
from parley.valkey.login import Login

_FAULTS = (RedisError, OSError, TimeoutError)


class Subscriptions:
    """Shares one pub/sub connection among all subscriptions.

    A reconnect or a failover may lose messages, so followers must also read now and then without one.
    """

    def __init__(self, client: "redis.asyncio.Redis", login: Login) -> None:
        """`login` is the client's."""
        self._client = client
        self._login = login
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._listening: asyncio.Task[None] | None = None
        self._listeners: dict[bytes, Listeners] = {}
        self._lock = asyncio.Lock()

    async def watch(self, channel: str, wakeup: Wakeup) -> "Subscription":
        """Notify `wakeup` of every message on `channel`, until the subscription is closed."""
        name = channel.encode()
        async with self._lock:
            listeners = self._listeners.get(name)
            if listeners is None:
                pubsub = self._pubsub
                if pubsub is None:
                    pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                await pubsub.subscribe(name)
                self._pubsub = pubsub
                listeners = self._listeners.setdefault(name, Listeners())
                if self._listening is None or self._listening.done():
                    self._listening = asyncio.create_task(self._listen(pubsub))
            listeners.add(wakeup)
        return Subscription(self, name, wakeup)

    async def forget(self, name: bytes, wakeup: Wakeup) -> None:
        """Close a subscription. The last one of a channel unsubscribes."""
        async with self._lock:
            listeners = self._listeners.get(name)
            if listeners is None:
                return
            listeners.discard(wakeup)
            if not listeners:
                del self._listeners[name]
                if self._pubsub is not None:
                    with contextlib.suppress(*_FAULTS):
                        async with asyncio.timeout(0.25):
                            await self._pubsub.unsubscribe(name)

    async def _listen(self, pubsub: "redis.asyncio.client.PubSub") -> None:
        lost = False
        while True:
            try:
                message = await pubsub.get_message(timeout=None)
            except _FAULTS as fault:
                # Messages may have been lost, so every follower reads now, and once more when it is
                # subscribed anew.
                self._notify_all()
                if isinstance(fault, AuthenticationError):
                    await self._login.renew()
                await asyncio.sleep(0.5)
                lost = True
                continue
            if lost:
                lost = False
                self._notify_all()
            if message is not None and message["type"] == "message":
                self._listeners.get(message["channel"], Listeners()).notify()
            elif not pubsub.subscribed:
                await asyncio.sleep(0.05)

    def _notify_all(self) -> None:
        for listeners in self._listeners.values():
            listeners.notify()

    async def close(self) -> None:
        """Unsubscribe from all channels, and close the connection."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        if self._pubsub is not None:
            with contextlib.suppress(*_FAULTS):
                await self._pubsub.aclose()  # type: ignore[no-untyped-call]


class Subscription:
    """`ports.Watch` of one wakeup on one channel."""

    def __init__(self, subscriptions: Subscriptions, name: bytes, wakeup: Wakeup) -> None:
        self._subscriptions = subscriptions
        self._name = name
        self._wakeup = wakeup

    async def close(self) -> None:
        await self._subscriptions.forget(self._name, self._wakeup)
