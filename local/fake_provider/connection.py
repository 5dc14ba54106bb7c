"""A server connection of the fake provider, on bare asyncio so that bytes, packets and resets are exact."""

import asyncio
import socket
import struct
from typing import Protocol, cast

from local.fake_provider.plan import Plan


class Host(Protocol):
    """The owner of connections: it plans the responses and counts the events."""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[Plan, bool]:
        """Return the response's plan, and whether the response is a model's reply."""
        ...

    def opened(self, connection: "Connection") -> None:
        """Count an opened connection."""
        ...

    def closed(self, connection: "Connection") -> None:
        """Count a closed connection."""
        ...

    def began(self) -> None:
        """Count a reply whose sending begins."""
        ...

    def ended(self, *, early: bool) -> None:
        """Count a reply that was sent, or (`early`) whose client left before."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection: reads requests one after the other, and plays the plan of each."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._plan: Plan | None = None
        self._is_reply = False
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport has another base class
        self._host.opened(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._plan is None:
            self._read_request()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._plan is not None and self._is_reply:
            self._host.ended(early=True)
        self._plan = self._transport = None
        self._host.closed(self)

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _read_request(self) -> None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = request_line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        self._plan, self._is_reply = self._host.answer(method, path, headers, rest[:length])
        if self._is_reply:
            self._host.began()
        self._next = 0
        self._go_on()

    def _go_on(self) -> None:
        """Wait for the next write's pause, or end the response after the last write."""
        assert self._plan is not None
        if self._next == len(self._plan.writes):
            self._end(self._plan)
        elif pause := self._plan.writes[self._next][0]:
            self._timer = self._loop.call_later(pause, self._write)
        else:
            self._write()

    def _write(self) -> None:
        assert self._plan is not None
        assert self._transport is not None
        self._timer = None
        data = self._plan.writes[self._next][1]
        if data:
            self._transport.write(data)
        self._next += 1
        self._go_on()

    def _end(self, plan: Plan) -> None:
        assert self._transport is not None
        if plan.ending == "hold":
            return
        if self._is_reply:
            self._host.ended(early=False)
        self._plan = None
        if plan.ending == "keep":
            self._read_request()
        elif plan.ending == "close":
            self._transport.close()
        else:
            sock = self._transport.get_extra_info("socket")
            # SO_LINGER 0 closes with a reset (RFC 9293, 3.10.5) instead of a FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
