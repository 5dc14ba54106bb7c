"""Many slow streams at once through one process: processor time, memory, and whether tokens come in time."""

import asyncio

from bench.bench import Bench, log
from bench.driver import Connection, RequestCycle
from bench.servers import Contender
from bench.upstream import TOKENS_PER_SECOND

TABLE = "streams"
_MODEL = "slow-100000"
# New streams a second, so that what is measured is streaming and not a stampede.
_RAMP = 200.0
# Who delivers less of 200 streams has nothing to show at 1,000.
_HELD = 0.5
_LATE_MS = 200


async def run(bench: Bench) -> None:
    """Measure 200 streams for all, and 1,000 for those that hold 200."""
    contenders = [each for each in bench.contenders if each.relays or each.role == "parley"]
    for number, turn in bench.rounds(contenders, 2):
        log(f"200 streams x {TOKENS_PER_SECOND} tokens/s, round {number + 1}")
        for contender in turn:
            async with bench.awake(contender):
                await measure(bench, contender, 200, "200")
    for number, turn in bench.rounds(_held(bench, contenders), 1):
        log(f"1,000 streams x {TOKENS_PER_SECOND} tokens/s, round {number + 1}")
        for contender in turn:
            async with bench.awake(contender):
                await bench.restart(contender)
                await measure(bench, contender, 1000, "1000")


def _held(bench: Bench, contenders: list[Contender]) -> list[Contender]:
    """Return who held 200 streams, and note who did not."""
    found = []
    for contender in contenders:
        held = bench.sheet.median(TABLE, contender.label, "delivered_200") or 0.0
        if held >= _HELD:
            found.append(contender)
        else:
            bench.sheet.note(
                f"{contender.label}: not asked for 1,000 streams, since it delivered {held:.0%} of 200."
            )
    return found


async def measure(bench: Bench, contender: Contender, streams: int, column: str) -> None:
    """Hold so many streams open, and look at the process for a few seconds."""
    seconds = 3.0 if bench.quick else 5.0
    contender.fresh = False
    requests = await contender.open_relay(bench.prompts(streams), _MODEL)
    idle = contender.memory()
    connections: list[Connection] = []
    exchanges: list[RequestCycle] = []
    for request in requests:
        connection = await Connection.to(contender.url)
        connections.append(connection)
        exchanges.append(connection.send(request))
        await asyncio.sleep(1 / _RAMP)
    began = [exchange.began for exchange in exchanges]
    await asyncio.wait(began, timeout=10)
    await asyncio.sleep(1)

    loop = asyncio.get_running_loop()
    begin, cpu, stores = loop.time(), contender.cpu(), bench.stores.cpu()
    await bench.upstream.stats()
    tokens = _tokens(exchanges)
    await asyncio.sleep(seconds)
    took, cpu, stores = loop.time() - begin, contender.cpu() - cpu, bench.stores.cpu() - stores
    tokens = _tokens(exchanges) - tokens
    late = (await bench.upstream.stats())["lateMs"]
    memory = contender.memory() - idle

    if late > _LATE_MS:
        bench.sheet.note(
            f"{contender.label}, {streams} streams: the upstream itself was up to {late} ms late."
        )
    due = streams * TOKENS_PER_SECOND * took
    bench.sheet.add(TABLE, contender.label, f"delivered_{column}", tokens / due)
    if tokens:
        bench.sheet.add(TABLE, contender.label, f"cpu_{column}", cpu / tokens)
        if contender.keeps and not contender.relays:
            bench.sheet.add(TABLE, contender.label, f"stores_{column}", stores / tokens)
    bench.sheet.add(TABLE, contender.label, f"core_{column}", cpu / took)
    held = sum(exchange.tokens > 0 for exchange in exchanges)
    if held == streams:
        bench.sheet.add(TABLE, contender.label, f"memory_{column}", memory / streams)
    else:
        bench.sheet.note(
            f"{contender.label}: {held} of {streams} streams had begun when the looking was over."
        )
    await _leave(bench, contender, connections, exchanges, kept_up=tokens > due * 0.95)


async def _leave(
    bench: Bench,
    contender: Contender,
    connections: list[Connection],
    exchanges: list[RequestCycle],
    *,
    kept_up: bool,
) -> None:
    await bench.upstream.end()
    if kept_up:
        done = [exchange.done for exchange in exchanges]
        _, unfinished = await asyncio.wait(done, timeout=20)
        kept_up = not unfinished and not any(future.exception() for future in done)
    for connection in connections:
        connection.close()
    if not kept_up:
        await bench.restart(contender)  # it would work on its backlog for long
        await bench.upstream.end()


def _tokens(exchanges: list[RequestCycle]) -> int:
    return sum(exchange.tokens for exchange in exchanges)
