"""Measures Parley, what its users would pick instead, and the floors, in one run: `make bench`.

Prints a table, and writes it with all samples to bench/results/.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import machine, report
from bench.bench import Bench, log
from bench.cases import cold, cost, growth, path, relay, resume, streams
from bench.contenders import ALL
from bench.tables import TABLES
from local.loop import new_event_loop

# What is run, and by which second of the run it should be done.
_CASES = {
    "relay": (relay.run, 100),
    "streams": (streams.run, 300),
    "path": (path.run, 390),
    "resume": (resume.run, 410),
    "cold": (cold.run, 470),
    "cost": (cost.run, 470),
    "growth": (growth.run, 560),
}


async def _run(arguments: argparse.Namespace) -> int:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        # The embedded Postgres runs as another user.
        os.chmod(name, 0o755)
        bench = Bench(Path(name), quick=arguments.quick, skip=arguments.skip)
        try:
            await bench.start()
            for case in arguments.only or _CASES:
                log(f"== {case}")
                bench.case = case
                run, bench.due = _CASES[case][0], begin + _CASES[case][1]
                await run(bench)
        finally:
            bench.stop()
    order = [relay.DIRECT, *(kind.label for kind in ALL)]
    text = report.markdown(bench.sheet, TABLES, order)
    print(f"\n{text}")
    print(f"Written to {report.write(bench.sheet, text, name=arguments.name)}")
    log(f"took {time.monotonic() - begin:.0f} s")
    return 1 if bench.failed else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [kind.__name__.lower() for kind in ALL]
    parser.add_argument("--only", nargs="+", choices=list(_CASES), help="measure only this")
    parser.add_argument("--skip", nargs="+", default=[], choices=names, help="leave contenders out")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, rougher figures")
    parser.add_argument(
        "--name", help="name of the files in bench/results; the date of a whole run, or latest"
    )
    arguments = parser.parse_args()
    if arguments.name is None:
        partial = arguments.only or arguments.skip or arguments.quick
        arguments.name = "latest" if partial else time.strftime("%Y-%m-%d")
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    gc.disable()  # the driver's pauses would be taken for the server's
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(arguments))


if __name__ == "__main__":
    sys.exit(main())
