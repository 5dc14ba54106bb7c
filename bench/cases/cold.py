"""Cold start: the processor time a new process takes until the first byte of its first answer."""

import asyncio
import compileall
import json
import os
import py_compile
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.bench import Bench, log
from bench.contenders import PYTHON, FastApi, FloorStores, Nest, Parley
from bench.driver import BadAnswer, Connection, ask, get
from bench.install import ROOT
from bench.servers import USER, Contender, Process
from local.files import free_port

TABLE = "cold"
BASELINE = "python -c pass"
_MISSES = {"openai": "full-20", "anthropic": "claude/full-20", "xai": "grok/full-20"}


async def run(bench: Bench) -> None:
    """Measure Parley's functions, as they are built, and the peers' servers."""
    built = _build(bench.folder / "built")
    for number in bench.repetitions(3):
        log(f"cold start, round {number + 1}")
        for column in ("start", "history", "hit", *(f"miss_{name}" for name in _MISSES)):
            bench.sheet.add(TABLE, BASELINE, column, _python())
        for contender in bench.contenders:
            if isinstance(contender, Parley):
                async with bench.awake(contender):
                    await _functions(bench, contender, built)
            elif isinstance(contender, FastApi | Nest | FloorStores):
                async with bench.awake(contender):
                    await _server(bench, contender)


def _python() -> float:
    """Return the processor time of a Python that does nothing."""
    process = subprocess.Popen([PYTHON, "-c", "pass"], preexec_fn=machine.pin(machine.SERVER_CORE))  # noqa: PLW1509
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return used.ru_utime + used.ru_stime


def _build(folder: Path) -> Path:
    """Lay the functions and the layer out as they are deployed, compiled, and unchecked against sources."""
    shutil.copytree(ROOT / "layers/common/parley", folder / "layer/parley")
    shutil.copytree(ROOT / "functions", folder / "functions")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=1, force=True, invalidation_mode=mode)
    return folder


async def _functions(bench: Bench, parley: Parley, built: Path) -> None:
    label = f"{parley.label}, its functions"
    env = parley.command()[1] | {
        "PYTHONPATH": f"{built / 'layer'}:{ROOT}",
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
        "XAI_API_KEY": "key",
        "XAI_BASE_URL": f"{parley.upstream_url}/v1",
        "LOG_LEVEL": "WARNING",
    }
    body = {"prompt": bench.prompt(), "modelId": "full-20", "userId": USER}
    event = json.loads((ROOT / "events/start.json").read_text())
    del event["headers"]["idempotency-key"]
    event["body"] = json.dumps(body)
    started, cpu = _invoke(built / "functions/start", event, env)
    bench.sheet.add(TABLE, label, "start", cpu)

    event = json.loads((ROOT / "events/history.json").read_text())
    event["rawQueryString"] = f"chatId={started['chatId']}&userId={USER}"
    event["queryStringParameters"] = {"chatId": started["chatId"], "userId": USER}
    _, cpu = _invoke(built / "functions/history", event, env)
    bench.sheet.add(TABLE, label, "history", cpu)

    for name, model in _MISSES.items():
        cpu = await _first_token(bench, parley, built, env, bench.prompt(), model)
        bench.sheet.add(TABLE, label, f"miss_{name}", cpu)
    prompt = bench.prompt()
    await ask(parley.url, await parley.open(prompt, "full-20"))
    bench.sheet.add(TABLE, label, "hit", await _first_token(bench, parley, built, env, prompt, "full-20"))


def _invoke(folder: Path, event: dict[str, Any], env: dict[str, str]) -> tuple[dict[str, Any], float]:
    """Answer one event in a new process; return the body and the processor time."""
    done = subprocess.run(
        [PYTHON, "-m", "bench.cold_start", folder],
        input=json.dumps(event),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=machine.pin(machine.SERVER_CORE),
    )
    cpu, _, answer = done.stdout.partition("\n")
    if done.returncode != 0 or json.loads(answer)["statusCode"] >= 300:
        raise BadAnswer(f"{folder.name}: {answer[:200]} {done.stderr[-500:]}")
    body: dict[str, Any] = json.loads(json.loads(answer)["body"])
    return body, float(cpu)


async def _first_token(
    bench: Bench, parley: Parley, built: Path, env: dict[str, str], prompt: str, model: str
) -> float:
    """Start the stream function's server as Lambda's adapter does, and ask it once."""
    exchange = await ask(parley.url, parley.start_request(prompt, model))
    request = get("/chat/stream", sessionId=exchange.body()["sessionId"])
    port = free_port()
    log_file = bench.folder / "cold.log"
    command: Sequence[str | Path] = ["bash", "run.sh"]
    process = Process(
        command,
        env | {"AWS_LWA_PORT": str(port)},
        log_file,
        core=machine.SERVER_CORE,
        cwd=built / "functions/stream",
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
