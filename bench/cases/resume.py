"""Resume: from the reconnect to the first character that was missing, in the same process and in another."""

import asyncio
import contextlib
import re
import statistics

from bench.bench import Bench, log
from bench.contenders import FloorStores, Parley
from bench.driver import BadAnswer, Connection, ask, get, percentile
from bench.servers import Contender
from local.files import free_port

TABLE = "resume"
_AWAY_SECONDS = 0.3
_CURSOR = re.compile(rb"^id: (\S+)", re.MULTILINE)


async def run(bench: Bench) -> None:
    """Measure Parley; no peer can resume, so only the floor stands beside it."""
    with contextlib.ExitStack() as stack:
        others: dict[str, Contender] = {}
        for contender in bench.contenders:
            if isinstance(contender, Parley):
                with bench.noting(contender):
                    others[contender.label] = await _another(bench, contender, stack)
        measured = [
            each for each in bench.contenders if each.label in others or isinstance(each, FloorStores)
        ]
        for number, turn in bench.rounds(measured, 3):
            log(f"resume, round {number + 1}")
            for contender in turn:
                async with bench.awake(contender):
                    if isinstance(contender, Parley):
                        await _resumes(bench, contender, others[contender.label])
                    elif isinstance(contender, FloorStores):
                        await _floor(bench, contender)


async def _another(bench: Bench, parley: Parley, stack: contextlib.ExitStack) -> Contender:
    """Start a second process of a build, which sleeps until its turn."""
    other = parley.another(free_port())
    stack.callback(other.stop)
    other.start()
    await bench.warm_up(other)
    other.sleep()
    return other


async def _resumes(bench: Bench, parley: Parley, other: Contender) -> None:
    other.wake()
    try:
        await _resume(bench, parley, parley.url, f"{parley.label}, same process")
        await _resume(bench, parley, other.url, f"{parley.label}, another process")
        await bench.upstream.end()
        await asyncio.sleep(1)  # what was written on is saved
    finally:
        other.sleep()


async def _resume(bench: Bench, parley: Parley, url: str, row: str) -> None:
    """Read a slow reply for a moment, leave, come back, and wait for what was missed."""

    async def once(prompt: str) -> float:
        request = await parley.open(prompt, "slow-100000")
        connection = await Connection.to(parley.url)
        exchange = connection.send(request, keep=True)
        await asyncio.wait_for(exchange.began, 30)
        await asyncio.sleep(0.2)
        connection.close()
        cursors = _CURSOR.findall(bytes(exchange.kept or b""))
        if not cursors:
            raise BadAnswer("no cursor came")
        await asyncio.sleep(_AWAY_SECONDS)
        again = request.replace(b"\r\n\r\n", b"\r\nlast-event-id: %b\r\n\r\n" % cursors[-1])
        connection = await Connection.to(url)
        exchange = connection.send(again, keep=True)
        await asyncio.wait_for(exchange.began, 30)
        connection.close()
        missed = round(_AWAY_SECONDS * 20) - 2
        if exchange.tokens < missed or b'"reset"' in bytes(exchange.kept or b""):
            raise BadAnswer(f"{exchange.tokens} tokens came at once after the resume, not {missed}")
        return exchange.first

    times = [await once(prompt) for prompt in bench.prompts(bench.count(10))]
    bench.sheet.add(TABLE, row, "p50", statistics.median(times))
    bench.sheet.add(TABLE, row, "p99", percentile(times, 0.99))


async def _floor(bench: Bench, floor: FloorStores) -> None:
    """Return the second half of a reply that is there."""
    prompt = bench.prompt()
    await ask(floor.url, await floor.open(prompt, "full-200"))
    await asyncio.sleep(0.1)
    started = (await ask(floor.url, floor.start_request(prompt, "full-200"))).body()
    request = get("/chat/stream", sessionId=started["sessionId"], cursor=400)
    times = []
    for _ in range(bench.count(10)):
        # As long as the others' readers are away: a process that just worked answers faster.
        await asyncio.sleep(_AWAY_SECONDS)
        exchange = await ask(floor.url, request)
        times.append(exchange.first)
    bench.sheet.add(TABLE, floor.label, "p50", statistics.median(times))
    bench.sheet.add(TABLE, floor.label, "p99", percentile(times, 0.99))
