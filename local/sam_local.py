"""Tests every function in Lambda's container image with `sam local`: `make sam-local`, which needs Docker.

The run has embedded stores of its own. `sam local invoke` sends each function its events. `sam local
start-api` serves start and history: their function URLs become routes of an HTTP API, whose events have the
same form. Only an AWS account can download the layer of Lambda Web Adapter, so the run starts stream's run.sh
in the image, as the adapter would.
"""

import asyncio
import json
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

from local.embedded import EmbeddedStores
from local.files import free_port
from local.seed import seed
from parley.postgres.migrate import migrate

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build/host"
_SAM = str(_ROOT / ".venv-deploy/bin/sam")
_MACHINE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
_IMAGE = f"public.ecr.aws/lambda/python:3.13-{_MACHINE}"
_HOST = "host.docker.internal"
_HOST_IS_HERE = ["--add-host", f"{_HOST}:host-gateway"]
_INVOKE_SECONDS = 600  # the first one may have to fetch the image
_START_SECONDS = 60
_APART_SECONDS = 0.02

# For each file in `events/`: the function, and the status of its response with a new database. The last two
# functions are not HTTP.
EVENTS: dict[str, tuple[str, int | None]] = {
    "start": ("StartFunction", 201),
    "start-base64": ("StartFunction", 201),
    "stop": ("StartFunction", 404),
    "models": ("HistoryFunction", 200),
    "history": ("HistoryFunction", 404),
    "purge": ("PurgeFunction", None),
    "migrate": ("MigrateFunction", None),
}
ROUTES = {
    "StartFunction": [("POST", "/chat/start"), ("POST", "/chat/stop")],
    "HistoryFunction": [("GET", "/chat/history"), ("GET", "/chat/list"), ("GET", "/chat/models")],
}
# Runs in stream's container, which has only Python's standard library. Prints each event's time and type.
_READ = """
import http.client, json, sys, time
for _ in range(300):
    client = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
    try:
        client.request("GET", "/ready")
        break
    except OSError:
        time.sleep(0.1)
ready = client.getresponse()
ready.read()
assert ready.status == 204, ready.status
context = json.dumps({"deadline": int(time.time() * 1000) + 120_000})
path = "/chat/stream?sessionId=" + sys.stdin.read()
client.request("GET", path, headers={"x-amzn-lambda-context": context})
answer = client.getresponse()
assert answer.status == 200, answer.status
while line := answer.readline():
    if line.startswith(b"data:"):
        print(time.monotonic(), json.loads(line[5:])["type"])
"""


class Failed(Exception):
    """A function returned an unexpected result. The message has the result."""


def with_routes(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template with routes of an HTTP API added to start and history."""
    for function, routes in ROUTES.items():
        template["Resources"][function]["Properties"]["Events"] = {
            path.rpartition("/")[2]: {"Type": "HttpApi", "Properties": {"Method": method, "Path": path}}
            for method, path in routes
        }
    return template


@asynccontextmanager
async def _reachable(url: str) -> AsyncIterator[str]:
    """Forward connections from containers to the store at `url`, which listens only on 127.0.0.1.

    Yields the URL for containers.
    """
    server = urlsplit(url)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection(server.hostname, server.port)
        await asyncio.gather(copy(reader, outside), copy(inside, writer))

    gateway = _docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    try:
        listener = await asyncio.start_server(connected, gateway, 0)
    except OSError:
        # Docker Desktop: containers run in a virtual machine, where `_HOST` resolves to the host's 127.0.0.1.
        listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield url.replace(f"{server.hostname}:{server.port}", f"{_HOST}:{port}")


def _docker(*arguments: str, text: str = "") -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise Failed(f"docker {arguments[0]}: {done.stderr}")
    return done.stdout.strip()


class Sam:
    """Runs `sam local` on the build for this machine. `variables` is the functions' environment."""

    def __init__(self, folder: Path, variables: dict[str, str], more: list[str]) -> None:
        self._log = folder / "start-api.log"
        self._variables = folder / "variables.json"
        self._variables.write_text(json.dumps({"Parameters": variables}))
        # In the build's folder, since the template's paths are relative.
        template = _BUILD / "sam-local.json"
        built = json.loads(json.dumps(cfn_yaml.load(str(_BUILD / "template.yaml"))))
        template.write_text(json.dumps(with_routes(built)))
        self._options = [
            "--template",
            str(template),
            "--env-vars",
            str(self._variables),
            *_HOST_IS_HERE,
            *more,
        ]

    def invoke(self, function: str, event: str) -> tuple[dict[str, Any], str]:
        """Return the function's result for an event of `events/`, and its log. Raises `Failed`."""
        command = [_SAM, "local", "invoke", function, "--event", f"events/{event}.json", *self._options]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=_ROOT, timeout=_INVOKE_SECONDS
        )
        with suppress(ValueError, IndexError):
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            if isinstance(answer, dict) and "errorType" not in answer:
                return answer, done.stderr
        raise Failed(f"{function} with {event}: {done.stdout}\n{done.stderr}")

    @contextmanager
    def api(self) -> Iterator[httpx.Client]:
        """Serve the routes until the end of the block. Raises `Failed` for an error of HTTP."""
        port = free_port()
        command = [
            _SAM,
            "local",
            "start-api",
            "--port",
            str(port),
            "--warm-containers",
            "LAZY",
            *self._options,
        ]
        with self._log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=_ROOT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
                until = time.monotonic() + _START_SECONDS
                while process.poll() is None and time.monotonic() < until:
                    with suppress(httpx.ConnectError):
                        client.get("/")
                        break
                    time.sleep(0.2)
                yield client
        except httpx.HTTPError as error:
            raise Failed(f"{error!r}\n{self._log.read_text()}") from None
        finally:
            process.terminate()
            process.wait(60)


def _stream(folder: Path, variables: dict[str, str], session_id: str) -> list[tuple[float, str]]:
    """Start run.sh in the image. Return the time in seconds and the type of each event of the stream."""
    file = folder / "variables.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    container = _docker(
        "run", "--detach", "--rm", "--env", "AWS_LAMBDA_FUNCTION_NAME=stream", "--env-file", str(file),
        *_HOST_IS_HERE, "--volume", f"{_BUILD}/CommonLayer:/opt:ro",
        "--volume", f"{_BUILD}/StreamFunction:/var/task:ro", "--entrypoint", "/var/task/run.sh", _IMAGE,
    )  # fmt: skip
    try:
        lines = _docker("exec", "--interactive", container, "python", "-c", _READ, text=session_id)
    except Failed as error:
        raise Failed(f"{error}\n{_docker('logs', container)}") from None
    finally:
        _docker("stop", "--time", "5", container)
    pairs = (line.split() for line in lines.splitlines())
    return [(float(at), kind) for at, kind in pairs]


def _expect(what: str, found: object, expected: object, more: object = "") -> None:
    if found != expected:
        raise Failed(f"{what}: {found} instead of {expected}. {more}")
    print(f"{what:<44} {found}", flush=True)


def _all(folder: Path, variables: dict[str, str], more: list[str]) -> None:
    sam = Sam(folder, variables, more)
    for event, (function, status) in EVENTS.items():
        answer, log = sam.invoke(function, event)
        _expect(f"{function} with {event}", answer.get("statusCode"), status, f"{answer}\n{log}")
    with sam.api() as client:
        models = client.get("/chat/models", params={"userId": "demo-free"})
        _expect("GET /chat/models", models.status_code, 200, models.text)
        ask = {"prompt": "What is a container?", "modelId": "demo", "userId": "demo-free"}
        started = client.post("/chat/start", json=ask)
        _expect("POST /chat/start", started.status_code, 201, started.text)
        session_id = started.json()["sessionId"]
        arrivals = _stream(folder, variables, session_id)
        _expect("GET /chat/stream ends with", arrivals[-1][1], "done")
        apart = sum(b[0] - a[0] > _APART_SECONDS for a, b in pairwise(arrivals))
        _expect("its tokens come one by one", apart > 10, True, arrivals)
        query = {"userId": "demo-free", "chatId": started.json()["chatId"]}
        read = client.get("/chat/history", params=query)
        _expect("GET /chat/history", read.status_code, 200, read.text)
        _expect("the reply there is", read.json()["messages"][-1]["status"], "complete", read.text)
        stopped = client.post("/chat/stop", json={"sessionId": session_id, "userId": "demo-free"})
        _expect("POST /chat/stop", stopped.status_code, 202, stopped.text)


async def _run(more: list[str]) -> int:
    variables = json.loads((_ROOT / "env.json").read_text("utf-8"))["Parameters"]
    with TemporaryDirectory(prefix="parley-sam-") as name:
        folder = Path(name)
        with EmbeddedStores(folder / "stores", volatile=True) as stores:
            at = stores.wait()
            async with _reachable(at.database_url) as database, _reachable(at.valkey_url) as valkey:
                urls = {"DATABASE_URL": database, "VALKEY_URL": valkey, "DATABASE_TIMEOUT": "20"}
                await migrate(at.database_url)
                await seed(at.database_url)
                try:
                    await asyncio.to_thread(_all, folder, variables | urls, more)
                except Failed as error:
                    print(f"FAILED: {error}", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_run(sys.argv[1:])))
