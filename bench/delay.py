"""A relay of TCP that makes every round trip longer: as far away as a database in another zone.

`python -m bench.delay --port 6000 --to 5432 --milliseconds 1`
"""

import argparse
import asyncio
from collections import deque


class _End(asyncio.Protocol):
    """One end of a connection. What it receives goes to the other end, so many seconds later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self.onward: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none by class
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._seconds:
            asyncio.get_running_loop().call_later(self._seconds, self._pass_on, data)
        else:
            self._pass_on(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.onward is not None and self.onward._transport is not None:
            self.onward._transport.close()

    def _pass_on(self, data: bytes) -> None:
        if self.onward is not None:
            self.onward.write(data)

    def write(self, data: bytes) -> None:
        """Send, once there is a connection."""
        self._held.append(data)
        self._flush()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            while self._held:
                self._transport.write(self._held.popleft())


async def _serve(port: int, to: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[object]] = set()

    def accept() -> _End:
        # All of the delay on the way back: timers count in whole milliseconds.
        client, server = _End(0), _End(seconds)
        client.onward, server.onward = server, client
        task = loop.create_task(loop.create_connection(lambda: server, "127.0.0.1", to))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return client

    server = await loop.create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--milliseconds", type=float, required=True)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.to, arguments.milliseconds / 1000))
