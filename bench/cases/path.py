"""The whole path, with Postgres and Valkey: start, miss, hit, history, and equal prompts at once."""

import asyncio
import itertools
import statistics
import time

from bench.bench import Bench, log
from bench.driver import BadAnswer, Connection, RequestCycle, ask, crowd, percentile, require
from bench.servers import USERS, Contender

TABLE = "path"
_REPLY = 200
_MODEL = f"full-{_REPLY}"
_AT_ONCE = 16
_EQUAL = 100
# Long enough on its way that no reply is cached before the last has asked.
_EQUAL_MODEL = "slow-20"


async def run(bench: Bench) -> None:
    """Measure every contender that keeps chats, or caches."""
    contenders = [each for each in bench.contenders if each.keeps or each.caches]
    for number, turn in bench.rounds(contenders, 5, 2):
        log(f"start, miss, hit, history, round {number + 1}")
        # One thing of all, then the next: what is compared lies close together in time.
        for measure in (_start, _miss, _history, _hit):
            for contender in turn:
                if contender.keeps or measure is _hit:
                    async with bench.awake(contender):
                        await measure(bench, contender)
    keepers = [each for each in contenders if each.keeps]
    for number, turn in bench.rounds(keepers, 9, 3):
        log(f"start and history at {_AT_ONCE} at once, round {number + 1}")
        for contender in turn:
            async with bench.awake(contender):
                await _rates(bench, contender)
    for number, turn in bench.rounds(contenders, 3):
        log(f"{_EQUAL} equal prompts, round {number + 1}")
        for contender in turn:
            async with bench.awake(contender):
                await _equal_prompts(bench, contender)


async def one_by_one(
    contender: Contender, requests: list[bytes], *, keep: bool = False
) -> list[RequestCycle]:
    """Send requests over one connection, one after the other; `keep` keeps the answers."""
    connection = await Connection.to(contender.url)
    exchanges = []
    for request in requests:
        if not connection.open:
            connection = await Connection.to(contender.url)
        exchanges.append(await connection.ask(request, keep=keep))
    connection.close()
    return exchanges


def _note(bench: Bench, contender: Contender, name: str, times: list[float]) -> None:
    bench.sheet.add(TABLE, contender.label, f"{name}_p50", statistics.median(times))
    bench.sheet.add(TABLE, contender.label, f"{name}_p99", percentile(times, 0.99))


def _note_cpu(bench: Bench, contender: Contender, name: str, begin: float, count: int) -> None:
    bench.sheet.add(TABLE, contender.label, f"{name}_cpu", (contender.cpu() - begin) / count)


async def _start(bench: Bench, contender: Contender) -> None:
    requests = [contender.start_request(prompt, _MODEL) for prompt in bench.prompts(bench.count(60))]
    cpu = contender.cpu()
    exchanges = await one_by_one(contender, requests)
    _note_cpu(bench, contender, "start", cpu, len(requests))
    require(exchanges)
    _note(bench, contender, "start", [exchange.last for exchange in exchanges])


async def _miss(bench: Bench, contender: Contender) -> None:
    requests = await contender.open_many(bench.prompts(bench.count(60)), _MODEL)
    cpu = contender.cpu()
    exchanges = await one_by_one(contender, requests)
    await asyncio.sleep(0.1)  # what it does after the answer counts too
    _note_cpu(bench, contender, "miss", cpu, len(requests))
    require(exchanges, tokens=_REPLY)
    _note(bench, contender, "miss_first", [exchange.first for exchange in exchanges])
    _note(bench, contender, "miss_last", [exchange.last for exchange in exchanges])


async def _history(bench: Bench, contender: Contender) -> None:
    request = await _kept_chat(bench, contender)
    count = bench.count(60)
    cpu = contender.cpu()
    exchanges = await one_by_one(contender, [request] * count)
    _note_cpu(bench, contender, "history", cpu, count)
    require(exchanges, tokens=_REPLY)
    _note(bench, contender, "history", [exchange.last for exchange in exchanges])


async def _kept_chat(bench: Bench, contender: Contender) -> bytes:
    """Have a chat with one reply, and return the request for its history."""
    start = await ask(contender.url, contender.start_request(bench.prompt(), _MODEL))
    started = start.body()
    await ask(contender.url, contender.stream_request(started))
    await asyncio.sleep(0.1)  # the floor saves after its answer
    return contender.history_request(started)


async def _hit(bench: Bench, contender: Contender) -> None:
    prompt = bench.prompt()
    await ask(contender.url, await contender.open(prompt, _MODEL))
    await asyncio.sleep(0.3)  # some fill their cache after the answer
    calls = (await bench.upstream.stats())["calls"]
    count = bench.count(60, contender)
    starts = 0.0
    if contender.keeps:
        cpu = contender.cpu()
        exchanges = await one_by_one(contender, [contender.start_request(prompt, _MODEL)] * count, keep=True)
        _note_cpu(bench, contender, "known", cpu, count)
        require(exchanges)
        _note(bench, contender, "known", [exchange.last for exchange in exchanges])
        starts = statistics.median(exchange.last for exchange in exchanges)
        requests = [contender.stream_request(exchange.body()) for exchange in exchanges]
    else:
        requests = await contender.open_many([prompt] * count, _MODEL)
    cpu = contender.cpu()
    exchanges = await one_by_one(contender, requests)
    await asyncio.sleep(0.1)
    _note_cpu(bench, contender, "hit", cpu, count)
    if (await bench.upstream.stats())["calls"] != calls:
        raise BadAnswer("it did not answer from its cache")
    require(exchanges, tokens=_REPLY)
    _note(bench, contender, "hit_first", [exchange.first for exchange in exchanges])
    _note(bench, contender, "hit_last", [exchange.last for exchange in exchanges])
    if contender.saved_first is not None:
        line = contender.saved_first + b" HTTP/1.1"
        requests = await contender.open_many([prompt] * count, _MODEL)
        exchanges = await one_by_one(contender, [each.replace(b" HTTP/1.1", line, 1) for each in requests])
        require(exchanges, tokens=_REPLY)
        _note(bench, contender, "saved", [starts + exchange.last for exchange in exchanges])


async def _rates(bench: Bench, contender: Contender) -> None:
    count = bench.count(400)
    starts = [
        contender.start_request(prompt, _MODEL, user)
        for prompt, user in zip(bench.prompts(count), itertools.cycle(USERS), strict=False)
    ]
    histories = [await _kept_chat(bench, contender)] * count
    for name, requests in (("start", starts), ("history", histories)):
        begin = time.perf_counter()
        exchanges = await crowd(contender.url, requests, at_once=_AT_ONCE)
        took = time.perf_counter() - begin
        require(exchanges)
        bench.sheet.add(TABLE, contender.label, f"{name}_rate", count / took)


async def _equal_prompts(bench: Bench, contender: Contender) -> None:
    """Ask the same thing a hundred times at once."""
    prompt = bench.prompt()
    requests = await contender.open_many([prompt] * _EQUAL, _EQUAL_MODEL)
    connections = [await Connection.to(contender.url) for _ in requests]
    calls = (await bench.upstream.stats())["calls"]
    exchanges = [connection.send(request) for connection, request in zip(connections, requests, strict=True)]
    begin = exchanges[0].begin
    await asyncio.wait_for(asyncio.gather(*(exchange.done for exchange in exchanges)), 60)
    require(exchanges, tokens=20)
    calls = (await bench.upstream.stats())["calls"] - calls
    last = max(exchange.begin + exchange.first for exchange in exchanges) - begin
    bench.sheet.add(TABLE, contender.label, "equal_calls", calls)
    bench.sheet.add(TABLE, contender.label, "equal_last", last)
    for connection in connections:
        connection.close()
