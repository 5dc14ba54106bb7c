"""Cold start: the processor time a new process takes until the first byte of its first answer."""

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.bench import Bench, log
from bench.contenders import FastApi, FloorStores, Nest, Parley
from bench.driver import BadAnswer, Connection, ask, get
from bench.install import PYTHON
from bench.invocations import Function, environment
from bench.servers import USER, Contender, Process
from local.files import free_port

TABLE = "cold"
BASELINE = "python -c pass"
_MISSES = {"openai": "full-20", "anthropic": "claude/full-20", "xai": "grok/full-20"}


async def run(bench: Bench) -> None:
    """Measure Parley's functions, as they are built, and the peers' servers."""
    for number, turn in bench.rounds(bench.contenders, 3):
        log(f"cold start, round {number + 1}")
        for column in ("start", "history", "hit", *(f"miss_{name}" for name in _MISSES)):
            bench.sheet.add(TABLE, BASELINE, column, _python())
        for contender in turn:
            if isinstance(contender, Parley):
                async with bench.awake(contender):
                    await _functions(bench, contender)
            elif isinstance(contender, FastApi | Nest | FloorStores):
                async with bench.awake(contender):
                    await _server(bench, contender)


def _python() -> float:
    """Return the processor time of a Python that does nothing."""
    process = subprocess.Popen([PYTHON, "-c", "pass"], preexec_fn=machine.pin(machine.SERVER_CORE))  # noqa: PLW1509
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return used.ru_utime + used.ru_stime


async def _functions(bench: Bench, parley: Parley) -> None:
    label = f"{parley.label}, its functions"
    body = {"prompt": bench.prompt(), "modelId": "full-20", "userId": USER}
    event = _event(parley, "start")
    event["headers"].pop("idempotency-key", None)
    event["body"] = json.dumps(body)
    started, cpu = _invoke(bench, parley, "start", event)
    bench.sheet.add(TABLE, label, "start", cpu)

    event = _event(parley, "history")
    event["rawQueryString"] = f"chatId={started['chatId']}&userId={USER}"
    event["queryStringParameters"] = {"chatId": started["chatId"], "userId": USER}
    _, cpu = _invoke(bench, parley, "history", event)
    bench.sheet.add(TABLE, label, "history", cpu)

    for name, model in _MISSES.items():
        cpu = await _first_token(bench, parley, bench.prompt(), model)
        bench.sheet.add(TABLE, label, f"miss_{name}", cpu)
    prompt = bench.prompt()
    await ask(parley.url, await parley.open(prompt, "full-20"))
    bench.sheet.add(TABLE, label, "hit", await _first_token(bench, parley, prompt, "full-20"))


def _event(parley: Parley, name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((parley.build.root / f"events/{name}.json").read_text("utf-8"))
    return event


def _invoke(bench: Bench, parley: Parley, name: str, event: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Answer one event in a new process; return the body and the processor time."""
    with Function(parley.build, name, parley.environment(), bench.folder / "cold.log") as function:
        said = function.invoke(event)
    answer = said["answer"]
    if answer["statusCode"] >= 300:
        raise BadAnswer(f"{name}: {str(answer)[:300]}")
    body: dict[str, Any] = json.loads(answer["body"])
    return body, said["processor"]


async def _first_token(bench: Bench, parley: Parley, prompt: str, model: str) -> float:
    """Start the stream function's server as Lambda's adapter does, and ask it once."""
    exchange = await ask(parley.url, parley.start_request(prompt, model))
    request = get("/chat/stream", sessionId=exchange.body()["sessionId"])
    port = free_port()
    command: Sequence[str | Path] = ["bash", "run.sh"]
    process = Process(
        command,
        environment(parley.build, parley.environment()) | {"AWS_LWA_PORT": str(port)},
        bench.folder / "cold.log",
        core=machine.SERVER_CORE,
        cwd=parley.build.deployed / "functions/stream",
    )
    try:
        url = f"http://127.0.0.1:{port}"
        process.wait_for_port(url)
        return await _cpu_at_first_token(url, request, process.process.pid)
    finally:
        process.stop()


async def _cpu_at_first_token(url: str, request: bytes, pid: int) -> float:
    connection = await Connection.to(url)
    exchange = connection.send(request, keep=True)
    await asyncio.wait([exchange.began, exchange.done], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    cpu = machine.cpu_seconds(machine.family(pid))
    if not exchange.tokens:
        raise BadAnswer(f"no token came: {bytes(exchange.kept or b'')[:300]!r}")
    connection.close()
    return cpu


async def _server(bench: Bench, contender: Contender) -> None:
    """Start a peer's server three times: for a start, a miss and a hit."""
    prompt = bench.prompt()
    await ask(contender.url, await contender.open(prompt, "full-20"))
    await asyncio.sleep(0.2)
    requests = {
        "start": contender.start_request(bench.prompt(), "full-20"),
        "miss_openai": await contender.open(bench.prompt(), "full-20"),
        "hit": await contender.open(prompt, "full-20"),
    }
    for name, request in requests.items():
        fresh = contender.another(free_port())
        fresh.start()
        try:
            if name == "start":
                (await ask(fresh.url, request)).body()
                cpu = fresh.cpu()
            else:
                cpu = await _cpu_at_first_token(fresh.url, request, fresh.pids[0])
            bench.sheet.add(TABLE, contender.label, name, cpu)
        finally:
            fresh.stop()
