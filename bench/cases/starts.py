"""Starts: what one costs, what a distant Postgres adds, and how many one user makes at once."""

import contextlib
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench import machine
from bench.bench import Bench, log
from bench.cases.path import one_by_one
from bench.contenders import Parley
from bench.driver import crowd, require
from bench.install import PYTHON
from bench.servers import USER, Process
from local.files import free_port

TABLE = "starts"
_MODEL = "full-20"
_AWAY_MILLISECONDS = 1.0
_AT_ONCE = 16


async def run(bench: Bench) -> None:
    """Measure Parley's builds; the floor opens no sessions, and no peer has what they keep."""
    with contextlib.ExitStack() as stack:
        pairs: dict[str, Parley] = {}
        for contender in bench.contenders:
            if isinstance(contender, Parley):
                with bench.noting(contender):
                    pairs[contender.label] = await _distant(bench, contender, stack)
        measured = [each for each in bench.contenders if isinstance(each, Parley) and each.label in pairs]
        for number, turn in bench.rounds(measured, 12, 4):
            log(f"starts, round {number + 1}")
            for measure in (_cost, _rate):
                for contender in turn:
                    async with bench.awake(contender):
                        await measure(bench, contender)
            for contender in turn:
                async with bench.awake(pairs[contender.label]):
                    await _away(bench, contender.label, pairs[contender.label])


async def _distant(bench: Bench, parley: Parley, stack: contextlib.ExitStack) -> Parley:
    """Start a second process of a build, with its Postgres further away; it sleeps until its turn."""
    url = urlsplit(parley.database_url)
    port = free_port()
    command: list[str | Path] = [PYTHON, "-m", "bench.delay", "--port", str(port)]
    command += ["--to", str(url.port), "--milliseconds", str(_AWAY_MILLISECONDS)]
    relay = Process(command, {}, bench.folder / f"delay-{port}.log", core=machine.OTHER_CORE)
    stack.callback(relay.stop)
    relay.wait_for_port(f"http://127.0.0.1:{port}")
    other = parley.another(free_port())
    user, _, _ = url.netloc.rpartition("@")
    other.database_url = url._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
    stack.callback(other.stop)
    other.start()
    await bench.warm_up(other)
    other.sleep()
    return other


def _starts(bench: Bench, parley: Parley, count: int) -> list[bytes]:
    return [parley.start_request(prompt, _MODEL, USER) for prompt in bench.prompts(count)]


async def _cost(bench: Bench, parley: Parley) -> None:
    requests = _starts(bench, parley, bench.count(150))
    begin, stores = parley.cpu(), bench.stores.cpu()
    exchanges = await one_by_one(parley, requests)
    bench.sheet.add(TABLE, parley.label, "cpu", (parley.cpu() - begin) / len(requests))
    bench.sheet.add(TABLE, parley.label, "stores_cpu", (bench.stores.cpu() - stores) / len(requests))
    require(exchanges)
    bench.sheet.add(TABLE, parley.label, "p50", statistics.median(each.last for each in exchanges))


async def _rate(bench: Bench, parley: Parley) -> None:
    requests = _starts(bench, parley, bench.count(400))
    begin = time.perf_counter()
    exchanges = await crowd(parley.url, requests, at_once=_AT_ONCE)
    took = time.perf_counter() - begin
    require(exchanges)
    bench.sheet.add(TABLE, parley.label, "rate_of_one", len(requests) / took)


async def _away(bench: Bench, label: str, parley: Parley) -> None:
    exchanges = await one_by_one(parley, _starts(bench, parley, bench.count(60)))
    require(exchanges)
    bench.sheet.add(TABLE, label, "away_p50", statistics.median(each.last for each in exchanges))
