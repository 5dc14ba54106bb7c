"""Checks that a running Parley delivers tokens one by one: `python -m local.smoke --url https://…`.

The prompt to the demo model is unique, so that no cache has its reply. The environment variable TOKEN is sent
as the bearer token. The exit code is 1 if the reply arrived in one piece.
"""

import argparse
import asyncio
import json
import os
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from parley.support.sse_decoder import Decoder

# Tokens that arrive within so many seconds of each other count as one piece.
_APART_SECONDS = 0.02
_PIECES = 5


@dataclass
class Measured:
    """Times in seconds since the request for the stream, and the stream's last event."""

    headers: float = 0.0
    first_event: float = 0.0
    tokens: list[float] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def pieces(self) -> int:
        """The number of pieces in which the tokens arrived."""
        later = zip(self.tokens, self.tokens[1:], strict=False)
        return bool(self.tokens) + sum(after - before > _APART_SECONDS for before, after in later)


async def measure(client: httpx.AsyncClient, start: str, stream: str, ask: dict[str, Any]) -> Measured:
    """Send a prompt, read the stream to its end, and return the measured times.

    `start` and `stream` are base URLs; `ask` is the body of the start request. Raises httpx's errors, and
    `SystemExit` for an error response.
    """
    headers = {"idempotency-key": str(uuid.uuid4())}
    opened = await client.post(f"{start}/chat/start", json=ask, headers=headers)
    if opened.is_error:
        raise SystemExit(f"start answered {opened.status_code}: {opened.text[:300]}")
    session = opened.json()["sessionId"]
    measured, decoder = Measured(), Decoder()
    began = time.monotonic()
    async with client.stream("GET", f"{stream}/chat/stream", params={"sessionId": session}) as response:
        if response.is_error:
            raise SystemExit(f"stream answered {response.status_code}")
        measured.headers = time.monotonic() - began
        async for chunk in response.aiter_raw():
            at = time.monotonic() - began
            for event in decoder.feed(chunk):
                body = json.loads(event.data)
                measured.first_event = measured.first_event or at
                if body["type"] == "token":
                    measured.tokens.append(at)
                elif body["type"] in ("done", "error"):
                    measured.end = body
    return measured


async def _smoke(options: argparse.Namespace) -> int:
    start = (options.start_url or f"{options.url}/api").rstrip("/")
    stream = (options.stream_url or f"{options.url}/api").rstrip("/")
    ask = {"prompt": f"What is {uuid.uuid4()}?", "modelId": options.model}
    token = os.environ.get("TOKEN", "")
    # With a token, the token's subject is the user.
    ask |= {} if token else {"userId": options.user}
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        measured = await measure(client, start, stream, ask)
    if not measured.tokens:
        print(f"FAILED: no token arrived: {measured.end or 'the stream just ended'}")
        return 1
    print(f"headers      {measured.headers:6.2f} s")
    print(f"first event  {measured.first_event:6.2f} s")
    print(f"first token  {measured.tokens[0]:6.2f} s")
    print(f"last token   {measured.tokens[-1]:6.2f} s")
    print(f"{len(measured.tokens)} tokens in {measured.pieces} pieces; {measured.end.get('type', 'no end')}")
    if measured.end.get("type") != "done":
        print("FAILED: the reply did not end well.")
        return 1
    if measured.pieces < _PIECES:
        print("FAILED: something on the way gathers the stream. docs/deploy.md, 'If tokens do not trickle'.")
        return 1
    print("Tokens arrive one by one.")
    return 0


def main() -> int:
    """Measure, print the times, and return the exit code: 0 if the tokens arrived one by one."""
    parser = argparse.ArgumentParser(prog="python -m local.smoke", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the site, with /api below it")
    parser.add_argument("--start-url", help="the start function's own URL")
    parser.add_argument("--stream-url", help="the stream function's own URL")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--user", default="demo-free")
    try:
        return asyncio.run(_smoke(parser.parse_args()))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"FAILED: no answer from the URL: {error or type(error).__name__}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
