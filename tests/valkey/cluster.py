"""A real cluster of Valkey: several servers that share the slots of the keys."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from local.files import free_port
from local.valkey import binary

_SLOTS = 16384


@contextlib.contextmanager
def cluster(folder: Path, *, shards: int) -> Iterator[list[str]]:
    """Run a cluster, and yield the URL of each of its servers."""
    ports = [free_port() for _ in range(shards)]
    processes = []
    try:
        for port in ports:
            home = folder / str(port)
            home.mkdir(parents=True)
            options = {
                "port": port, "cluster-port": free_port(), "bind": "127.0.0.1", "dir": home,
                "cluster-enabled": "yes", "save": "", "appendonly": "no", "loglevel": "warning",
            }  # fmt: skip
            command = [
                binary(),
                *(part for name, value in options.items() for part in (f"--{name}", str(value))),
            ]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        clients = [redis.Redis(port=port) for port in ports]
        for client in clients:
            _until(lambda client=client: client.ping())
        for number, client in enumerate(clients):
            first, last = number * _SLOTS // shards, (number + 1) * _SLOTS // shards - 1
            _command(client, "CLUSTER ADDSLOTSRANGE", first, last)
            if number:
                bus = str(clients[0].config_get("cluster-port")["cluster-port"])
                _command(client, "CLUSTER MEET", "127.0.0.1", ports[0], bus)
        for client in clients:
            _until(lambda client=client: _command(client, "CLUSTER INFO")["cluster_state"] == "ok")
        yield [f"redis://127.0.0.1:{port}/0" for port in ports]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _command(client: redis.Redis, *words: str | int) -> Any:
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


def _until(condition: object) -> None:
    """Wait for a condition, which may raise as long as its server starts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError, OSError):
            assert callable(condition)
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("the cluster does not come up")
