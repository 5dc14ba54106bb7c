"""Many slow streams through one process, with random disconnects and resumes; every reply compared.

make soak-load STREAMS=1000 SECONDS=60
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import httpx2
import psutil

from local.embedded import EmbeddedStores
from local.fake_provider import reply_to, tokens_of
from local.seed import seed
from parley.postgres.migrate import migrate
from parley.support.sse_decoder import Decoder
from tests.processes import Fake, Server
from tests.world import World

# Memory an open stream may cost in the second half of a run, in terms of the first.
_FLAT = 1.25


@dataclass
class Tally:
    """What the run has seen."""

    started: int = 0
    done: int = 0
    resumes: int = 0
    resets: int = 0
    mismatches: int = 0
    errors: int = 0
    failures: int = 0
    open: int = 0
    ends: Counter[str] = field(default_factory=Counter)


def _expected(prompt: str, tokens: int) -> str:
    return "".join(islice(cycle(tokens_of(reply_to(prompt))), tokens))


async def _one(
    http: httpx2.AsyncClient, url: str, number: int, tokens: int, tally: Tally, deadline: float
) -> None:
    loop = asyncio.get_running_loop()
    dice = random.Random(number)
    # People do not all come in the same instant; a stampede is another test.
    await asyncio.sleep(max(0, number) / 100)
    turn = 0
    while loop.time() < deadline:
        turn += 1
        prompt = f"stream {number} turn {turn} " + "lorem ipsum dolor " * 3
        body = {"prompt": prompt, "modelId": "soak", "userId": "demo-pro"}
        response = await http.post(f"{url}/api/chat/start", json=body)
        if response.status_code != 201:
            tally.failures += 1
            return
        session = response.json()["sessionId"]
        tally.started += 1
        text, whole = await _read(http, f"{url}/api/chat/stream?sessionId={session}", dice, tally)
        tally.done += 1
        expected = _expected(prompt, tokens)
        if text != expected if whole else not expected.startswith(text):
            tally.mismatches += 1


async def _read(http: httpx2.AsyncClient, url: str, dice: random.Random, tally: Tally) -> tuple[str, bool]:
    """Read a reply however many connections it takes; the text, and whether it ended without an error."""
    text, cursor, ended, whole = "", "", False, True
    while not ended:
        headers = {"last-event-id": cursor} if cursor else {}
        leave = time.monotonic() + dice.expovariate(1 / 20)
        decoder = Decoder()
        tally.open += 1
        try:
            async with http.stream("GET", url, headers=headers) as response:
                if response.status_code == 204:
                    return text, True
                async for chunk in response.aiter_raw():
                    for event in decoder.feed(chunk):
                        cursor = event.last_event_id or cursor
                        body = json.loads(event.data)
                        if body["type"] == "token":
                            text += body["content"]
                        elif body["type"] == "reset":
                            tally.resets += 1
                            text = ""
                        if body["type"] in ("done", "error"):
                            tally.ends[str(body.get("finishReason") or body["code"])] += 1
                            ended = True
                        if body["type"] == "error":
                            whole = False
                            tally.errors += 1
                    if not ended and time.monotonic() > leave:
                        break
        except httpx2.HTTPError:
            tally.failures += 1
            await asyncio.sleep(1)
        finally:
            tally.open -= 1
        if not ended:
            tally.resumes += 1
            await asyncio.sleep(dice.random())
    return text, whole


async def _watch(server: Server, tally: Tally, streams: int, seconds: float) -> list[float]:
    """Report every few seconds; return the memory of one open stream, in KiB, while most of them were."""
    process = psutil.Process(server.process.pid)
    idle = process.memory_info().rss
    print(f"idle: {idle / 2**20:.0f} MiB")
    per_stream: list[float] = []
    begin = time.monotonic()
    process.cpu_percent()
    while time.monotonic() - begin < seconds:
        await asyncio.sleep(max(1.0, seconds / 24))
        if server.process.poll() is not None:
            raise SystemExit(f"the server ended with {server.process.returncode}:\n{server.output()[-8000:]}")
        used = process.memory_info().rss
        each = (used - idle) / max(1, tally.open) / 1024
        if tally.open > streams * 0.8:
            per_stream.append(each)
        print(
            f"{time.monotonic() - begin:4.0f} s  open {tally.open:5}  done {tally.done:6}"
            f"  resumes {tally.resumes:6}  mismatches {tally.mismatches}  errors {tally.errors}"
            f"  failures {tally.failures}"
            f"  cpu {process.cpu_percent():3.0f} %  memory {used / 2**20:.0f} MiB  {each:.0f} KiB a stream"
            f"  {dict(tally.ends)}",
            flush=True,
        )
    return per_stream


async def run(streams: int, seconds: float, tokens: int, delay: float) -> int:
    """Run and report; return 1 if any reply was not what the provider sent, or memory grew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with EmbeddedStores(folder / "stores", volatile=True) as stores:
            addresses = stores.wait()
            await migrate(addresses.database_url)
            await seed(addresses.database_url)
            fake = Fake(folder)
            world = World(folder, addresses.database_url, addresses.valkey_url, fake)
            try:
                world.model("soak", count=1)
                tally = Tally()
                server = world.fresh_server(LOG_LEVEL="WARNING")
                limits = httpx2.Limits(max_connections=None)
                async with httpx2.AsyncClient(limits=limits, timeout=None) as http:
                    await _read_one_first(http, server.url)
                    world.model("soak", count=tokens, delay=delay)
                    deadline = asyncio.get_running_loop().time() + seconds
                    watch = asyncio.create_task(_watch(server, tally, streams, seconds))
                    jobs = []
                    for number in range(streams):
                        jobs.append(_one(http, server.url, number, tokens, tally, deadline))
                    await asyncio.gather(watch, *jobs)
                    per_stream = watch.result()
            finally:
                if tally.failures:
                    print(server.output()[-8000:])
                await world.close()
                fake.close()
    print(
        f"{tally.done} replies, {tally.resumes} resumes, {tally.resets} resets, {tally.failures} failures, "
        f"{tally.errors} errors, {tally.mismatches} mismatches, ends {dict(tally.ends)}"
    )
    if len(per_stream) < 4:
        print("Too short to tell whether memory stays flat.")
        return 1
    half = len(per_stream) // 2
    before, after = median(per_stream[:half]), median(per_stream[half:])
    print(f"{before:.0f} KiB an open stream in the first half of the time, {after:.0f} in the second")
    return 1 if tally.mismatches or tally.errors or tally.failures or after > before * _FLAT else 0


async def _read_one_first(http: httpx2.AsyncClient, url: str) -> None:
    """Have everything imported before memory is measured."""
    tally = Tally()
    await _one(http, url, -1, 1, tally, asyncio.get_running_loop().time() + 0.01)


def main() -> None:
    """Read the arguments, run, and exit with 1 on any mismatch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--delay", type=float, default=2.0, help="seconds between tokens")
    arguments = parser.parse_args()
    raise SystemExit(
        asyncio.run(run(arguments.streams, arguments.seconds, arguments.tokens, arguments.delay))
    )


if __name__ == "__main__":
    main()
