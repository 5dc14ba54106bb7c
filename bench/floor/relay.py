"""The floor of a relay: uvloop, bare sockets on both sides; parse, join what arrived together, write once."""

import argparse
import asyncio
import os

import uvloop

from bench.floor.http_server import DONE, STREAM_HEAD, HttpServer, token
from bench.floor.upstream_client import UpstreamClient


class Relay(HttpServer):
    """Relays; stores nothing."""

    def __init__(self, upstream: UpstreamClient) -> None:
        super().__init__()
        self._upstream = upstream
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        write = self.transport.write
        asking = asyncio.ensure_future(
            self._upstream.ask(
                query["model"], query["prompt"], lambda text: write(token(text)), lambda: write(DONE)
            )
        )
        self._tasks.add(asking)
        asking.add_done_callback(self._tasks.discard)
        write(STREAM_HEAD)


async def _serve(port: int) -> None:
    upstream = UpstreamClient(os.environ["OPENAI_BASE_URL"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Relay(upstream), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
