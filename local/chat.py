"""A chat in the terminal: `python -m local.chat "What is AI?"`. Without a prompt, each line of input is one.

This module is also a minimal complete client: it starts once, streams, and resumes at its cursor after a lost
connection.
"""

import argparse
import asyncio
import json
import math
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from parley.support.sse_decoder import Decoder

_ATTEMPTS = 8
_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 8.0
_STEADY_SECONDS = 10.0
_ALIVE_SECONDS = 1.0
_SILENCE_SECONDS = 30.0  # three heartbeats missed
# Control characters are removed, since a model may write escape sequences that a terminal would obey.
_CONTROLS = {code: None for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Refused(Exception):
    """The server refused the request or is unreachable. The message says why."""


class _Patience:
    """Exponential backoff with jitter. After progress, `renew` begins to count the failures anew.

    The pauses begin anew only after a connection that held. A session has room for so many readers, and those
    above that push each other out: each gets what there is, and is soon let go. It gets no text while the
    model is silent, and is told by how long it lived from a server that greets and hangs up at once.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pauses = 0
        self._since = time.monotonic()

    def renew(self) -> None:
        self._failures = 0

    async def wait(self, why: str, at_least: float = 0.0) -> None:
        self._failures += 1
        if self._failures == _ATTEMPTS:
            raise Refused(f"gave up: {why}")
        held = self._failures == 1 and time.monotonic() - self._since >= _STEADY_SECONDS
        self._pauses = 1 if held else min(self._pauses + 1, _ATTEMPTS)
        pause = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**self._pauses) * random.uniform(0.5, 1)  # noqa: S311
        await asyncio.sleep(max(pause, at_least))
        self._since = time.monotonic()


async def first_model(client: httpx.AsyncClient, user: str) -> str:
    """Return the id of the first model that the user can ask. Raises `Refused`."""
    patience = _Patience()
    while True:
        try:
            response = await client.get("/api/chat/models", params={"userId": user})
        except httpx.UnsupportedProtocol:
            raise
        except httpx.TransportError as error:
            await patience.wait(_words(error))
            continue
        if response.status_code == 200:
            models = response.json()["models"]
            for model in models:
                if model["available"]:
                    return str(model["id"])
            named = ", ".join(f"{model['id']} ({model['unavailableBecause']})" for model in models)
            raise Refused(f"there is no model that {user} can ask: {named or 'none is on offer'}.")
        await _pause_or_refuse(patience, response)


async def start(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """Send a prompt and return the body of the 201 response. Raises `Refused`."""
    # With the key, repeating a start whose response was lost opens no second session.
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    patience = _Patience()
    while True:
        try:
            response = await client.post("/api/chat/start", json=body, headers=headers)
        except httpx.UnsupportedProtocol:
            raise
        except httpx.TransportError as error:
            await patience.wait(_words(error))
            continue
        if response.status_code == 201:
            answer: dict[str, Any] = response.json()
            return answer
        await _pause_or_refuse(patience, response)


async def follow(client: httpx.AsyncClient, session_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a session's stream up to `done` or `error`, resuming after lost connections.

    Raises `Refused`.
    """
    cursor = ""
    patience = _Patience()
    while True:
        headers = {"Last-Event-ID": cursor} if cursor else {}
        why = "the stream broke off"
        greeted = math.inf
        silent = False
        try:
            async with client.stream(
                "GET", "/api/chat/stream", params={"sessionId": session_id}, headers=headers
            ) as response:
                if response.status_code == 204:
                    return
                if response.status_code != 200:
                    await response.aread()
                    await _pause_or_refuse(patience, response)
                    continue
                decoder = Decoder()
                async for chunk in response.aiter_raw():
                    for event in decoder.feed(chunk):
                        greeted = min(greeted, time.monotonic())
                        body: dict[str, Any] = json.loads(event.data)
                        if _is_progress(body):
                            patience.renew()
                        cursor = event.last_event_id or cursor
                        yield body
                        if body["type"] in ("done", "error"):
                            return
        except httpx.TransportError as error:
            why = _words(error)
            silent = isinstance(error, httpx.TimeoutException)
        if not silent and time.monotonic() - greeted >= _ALIVE_SECONDS:
            patience.renew()
        await patience.wait(why)


def _is_progress(event: dict[str, Any]) -> bool:
    """Tell whether an event is more than a greeting, or a sign that the server is alive."""
    if event["type"] == "status":
        return bool(event["state"] != "thinking")
    return event["type"] not in ("start", "typing")


async def _pause_or_refuse(patience: _Patience, response: httpx.Response) -> None:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"status {response.status_code}", "retryable": response.status_code >= 500}
    if not error.get("retryable"):
        raise Refused(error.get("message", f"status {response.status_code}"))
    # Parley says it in seconds; a proxy between may say a date (RFC 9110, 10.2.3), and then the own patience
    # counts.
    after = response.headers.get("retry-after", "")
    await patience.wait(error["message"], at_least=float(after) if after.isdigit() else 0.0)


def _words(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


async def show(client: httpx.AsyncClient, session_id: str) -> bool:
    """Print a reply as it arrives. Return True if it ended with `done`."""
    source = ""
    async for event in follow(client, session_id):
        match event["type"]:
            case "start":
                source = source or event["source"]
            case "token":
                print(event["content"].translate(_CONTROLS), end="", flush=True)
            case "status":
                _tell(event)
            case "reset":
                print("\n[the reply begins anew]", file=sys.stderr)
            case "done":
                print(f"\n\n[{_about(event, source)}]", file=sys.stderr)
            case "error":
                print(f"\n[{_failure(event)}]", file=sys.stderr)
                return False
    return True


def _tell(status: dict[str, Any]) -> None:
    match status["state"]:
        case "thinking":
            print(f"[thinking, {status['elapsedMs'] // 1000} s]", file=sys.stderr)
        case "retrying" | "fallback":
            print(f"[{status['state']}]", file=sys.stderr)


def _failure(error: dict[str, Any]) -> str:
    wait = error.get("retryAfterMs")
    again = "" if wait is None else f" Try again in {math.ceil(wait / 1000)} s."
    return f"{error['message']}{again}"


def _about(done: dict[str, Any], source: str) -> str:
    usage = done["usage"]
    facts = [f"from {source}", done["finishReason"]]
    if usage:
        facts.append(f"{usage['inputTokens']} tokens in, {usage['outputTokens']} out")
    if not done["saved"]:
        facts.append("not saved yet")
    return ", ".join(facts)


async def _chat(options: argparse.Namespace) -> int:
    timeout = httpx.Timeout(10, read=_SILENCE_SECONDS)
    async with httpx.AsyncClient(base_url=options.url, timeout=timeout, trust_env=False) as client:
        chat_id: str | None = options.chat
        model = options.model or await first_model(client, options.user)
        well = True
        for prompt in [options.prompt] if options.prompt else _typed():
            body = {"prompt": prompt, "modelId": model, "userId": options.user}
            started = await start(client, body | ({"chatId": chat_id} if chat_id else {}))
            chat_id = started["chatId"]
            try:
                well = await show(client, started["sessionId"])
            except asyncio.CancelledError:
                # Ctrl-C: stop the session, so that the provider stops and the partial reply is saved.
                stop = {"sessionId": started["sessionId"], "userId": options.user}
                await client.post("/api/chat/stop", json=stop)
                raise
    return 0 if well else 1


def _typed() -> Iterator[str]:
    while True:
        try:
            prompt = input("\n> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if prompt.strip():
            yield prompt


def main() -> int:
    """Chat, and return the exit code: 0 if the last reply ended with `done`."""
    parser = argparse.ArgumentParser(prog="python -m local.chat", description=__doc__)
    parser.add_argument("prompt", nargs="?")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="the first one that the user can ask, unless this names another")
    parser.add_argument("--user", default="demo-free")
    parser.add_argument("--chat", help="go on in this chat")
    try:
        return asyncio.run(_chat(parser.parse_args()))
    except Refused as error:
        print(f"Parley: {error}", file=sys.stderr)
        return 1
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        print(
            "Parley: --url must be a URL that begins with http:// or https://; PORT a port.", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
