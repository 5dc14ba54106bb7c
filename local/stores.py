"""The process that runs the embedded stores: `python -m local.stores`.

It prints one line of JSON, the stores' URLs or an error, and stops the stores when its standard input ends.
The kernel closes that pipe when the process at the other end dies, so no kind of death leaves a database
running.
"""

import argparse
import json
import os
import select
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from local.files import lock, private_folder
from local.postgres import Postgres
from local.process import ProcessError, Service
from local.valkey import Valkey

# Seconds to wait for the lock: the stores of a server that was just killed may still write a checkpoint.
_HANDOVER_SECONDS = 30.0


def main() -> int:
    """Run the stores until standard input ends, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.stores")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--valkey", action="store_true")
    parser.add_argument("--volatile", action="store_true", help="for tests: the folder goes with the stores")
    options = parser.parse_args()

    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        folder = private_folder(options.folder.absolute())
        keep = lock(folder / "stores.lock", seconds=_HANDOVER_SECONDS)
        if keep is None:
            raise ProcessError(f"Another process keeps the stores in {folder}.")
        stores: dict[str, Service] = {}
        if options.postgres:
            stores["postgres"] = Postgres(folder, volatile=options.volatile, keep=keep)
        if options.valkey:
            stores["valkey"] = Valkey(folder, volatile=options.volatile, keep=keep)
        try:
            _keep(stores)
        finally:
            if options.volatile:
                shutil.rmtree(folder, ignore_errors=True)
    except (ProcessError, OSError) as error:
        _say({"error": str(error)})
        return 1
    return 0


def _keep(stores: dict[str, Service]) -> None:
    try:
        for store in stores.values():
            store.start()
        _say({name: {"url": store.wait(), "pid": store.pid} for name, store in stores.items()})
        _watch(list(stores.values()))
    finally:
        # A second SIGTERM would interrupt the shutdown and leave a store running.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # All are asked before the first is awaited, so that they shut down in parallel.
        for store in stores.values():
            store.ask_to_end()
        for store in stores.values():
            store.stop()


def _watch(stores: list[Service]) -> None:
    """Return when standard input ends or every store has ended."""
    while stores:
        readable, _, _ = select.select([sys.stdin], [], [], 1.0)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            return
        for store in [store for store in stores if store.ended()]:
            stores.remove(store)
            print(f"{store.name} ended by itself; its log is {store.log}", file=sys.stderr)


def _say(answer: dict[str, object]) -> None:
    with suppress(OSError):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
