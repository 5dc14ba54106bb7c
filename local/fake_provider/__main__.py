"""Run the fake provider as a process: `python -m local.fake_provider --port 8787`."""

import argparse
import asyncio
import contextlib

from local.fake_provider.server import FakeProvider


async def _serve(host: str, port: int, api_key: str | None) -> None:
    async with FakeProvider(host=host, port=port, api_key=api_key) as fake:
        # With port 0, the parent process reads the address from this line.
        print(f"fake provider: {fake.url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Parse the arguments, and serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787, help="0 takes a free one")
    parser.add_argument("--api-key", help="answers 401 to any other")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.host, arguments.port, arguments.api_key))


if __name__ == "__main__":
    main()
