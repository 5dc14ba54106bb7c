"""Runs a built function as Lambda does: AWS's runtime interface emulator, awslambdaric, and the layer."""

import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.templates import ROOT

BUILD = ROOT / "build/host"
PYTHON = ROOT / ".venv-deploy/bin/python"
SECRET = "a secret that only the tests know, long enough"


def event(name: str) -> dict[str, Any]:
    """Return a sample event."""
    content: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text("utf-8"))
    return content


def environment(function: str, **settings: str) -> dict[str, str]:
    """Return what Lambda sets and the template adds, without anything of this process."""
    return {
        "PATH": f"{PYTHON.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(BUILD / "CommonLayer/python"),
        "LAMBDA_TASK_ROOT": str(BUILD / function),
        "AWS_LAMBDA_FUNCTION_NAME": function,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "30",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function}",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "KEY_SECRET": SECRET,
        "AUTH_MODE": "trusted",
        "ALLOW_TRUSTED": "true",
        "DEMO_MODEL": "true",
        **settings,
    }


def free_port() -> int:
    """Return a port that nobody uses right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Function:
    """A function in the emulator; one invocation at a time, as in a sandbox."""

    def __init__(self, url: str, log: Path) -> None:
        self._url = f"{url}/2015-03-31/functions/function/invocations"
        self.log = log

    def invoke(self, event: dict[str, Any]) -> Any:
        """Return what the handler returned."""
        return httpx.post(self._url, json=event, timeout=60, trust_env=False).raise_for_status().json()

    def http(self, event: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of what a function URL would answer."""
        answer = self.invoke(event)
        assert set(answer) >= {"statusCode", "headers", "body"}, answer
        body = answer["body"]
        return answer["statusCode"], json.loads(body) if body else None, answer["headers"]


def _emulator() -> str:
    folder = "lib/python3.13/site-packages/samcli/local/rapid"
    kind = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    return str(PYTHON.parent.parent / folder / f"aws-lambda-rie-{kind}")


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


@contextmanager
def running(folder: Path, function: str, **settings: str) -> Iterator[Function]:
    """Run a function until the end of the block."""
    port, inner = free_port(), free_port()
    log = folder / f"{function}.log"
    command = [
        _emulator(),
        "--runtime-interface-emulator-address", f"127.0.0.1:{port}",
        "--runtime-api-address", f"127.0.0.1:{inner}",
        str(PYTHON), "-m", "awslambdaric", "app.handler",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=BUILD / function,
            env=environment(function, **settings),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(port, process, log)
        yield Function(f"http://127.0.0.1:{port}", log)
    finally:
        _end(process)


@contextmanager
def streaming(folder: Path, **settings: str) -> Iterator[tuple[str, Path]]:
    """Start run.sh as the adapter would, wait until it is ready, and give its URL and log."""
    port = free_port()
    log = folder / "stream.log"
    variables = environment("StreamFunction", AWS_LWA_PORT=str(port), **settings)
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["./run.sh"],
            cwd=BUILD / "StreamFunction",
            env=variables,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(port, process, log)
        yield f"http://127.0.0.1:{port}", log
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    # The emulator leaves its runtime behind: the whole group goes.
    with_group = os.getpgid(process.pid) if process.poll() is None else None
    if with_group is not None:
        os.killpg(with_group, 15)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
