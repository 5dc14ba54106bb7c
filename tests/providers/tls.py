"""What tests of connections over TLS share."""

import asyncio
import contextlib


class Deaf:
    """A proxy that stops to pass on what the client says, so that it can say goodbye by TCP only."""

    def __init__(self, port: int) -> None:
        self.heeds = True
        self.left = asyncio.Event()
        self.port = 0
        self._target = port

    async def __aenter__(self) -> "Deaf":
        self._server = await asyncio.start_server(self._serve, "localhost", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("localhost", self._target)
        back = asyncio.create_task(self._copy(from_server, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.heeds:
                    to_server.write(data)
        self.left.set()
        to_server.transport.abort()
        writer.transport.abort()
        await back

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
