"""What a relay adds: time to the first token, and processor time for each token."""

import asyncio
import statistics

from bench.bench import Bench, log
from bench.driver import Connection, RequestCycle, crowd, percentile, post, require
from bench.servers import Contender

TABLE = "relay"
DIRECT = "direct call to the upstream"
_BURST_STREAMS = 8


async def run(bench: Bench) -> None:
    """Measure every contender that is a relay, and Parley by its whole path."""
    relays = [each for each in bench.contenders if each.relays or each.role == "parley"]
    for number, turn in bench.rounds(relays, 5, 2):
        log(f"first token, round {number + 1}")
        await _first_token(bench, turn)
    for number, turn in bench.rounds(relays, 3):
        log(f"burst, round {number + 1}")
        for contender in turn:
            async with bench.awake(contender):
                await _burst(bench, contender)


async def _first_token(bench: Bench, relays: list[Contender]) -> None:
    body = {"model": "full-20", "messages": [{"role": "user", "content": "?"}], "stream": True}
    connection = await Connection.to(bench.upstream.url)
    requests = [post("/v1/chat/completions", body)] * bench.count(60)
    _note(bench, DIRECT, [await connection.ask(request) for request in requests])
    connection.close()
    for contender in relays:
        async with bench.awake(contender):
            requests = await contender.open_relay(bench.prompts(bench.count(60, contender)), "full-20")
            connection = await Connection.to(contender.url)
            exchanges = []
            for request in requests:
                exchanges.append(await connection.ask(request))
                if not connection.open:  # not every server keeps a connection that streamed
                    connection = await Connection.to(contender.url)
            connection.close()
            _note(bench, contender.label, exchanges)


def _note(bench: Bench, row: str, exchanges: list[RequestCycle]) -> None:
    require(exchanges, tokens=20)
    times = [exchange.first for exchange in exchanges]
    bench.sheet.add(TABLE, row, "first_p50", statistics.median(times))
    bench.sheet.add(TABLE, row, "first_p99", percentile(times, 0.99))


async def _burst(bench: Bench, contender: Contender) -> None:
    """Relay long replies that the upstream sends as fast as it can."""
    tokens = 2000
    count = bench.count(24, contender)
    requests = await contender.open_relay(bench.prompts(count), f"full-{tokens}")
    begin = contender.cpu()

    require(await crowd(contender.url, requests, at_once=_BURST_STREAMS), tokens=tokens)
    await asyncio.sleep(0.1)  # what it does after the answer counts too
    bench.sheet.add(TABLE, contender.label, "burst_cpu", (contender.cpu() - begin) / (count * tokens))
