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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import builds, machine, report
from bench.bench import Bench, log
from bench.beside import compare, section
from bench.cases import cold, cost, growth, path, relay, resume, starts, streams
from bench.contenders import ALL
from bench.driver import BadAnswer
from bench.install import NotInstalled
from bench.servers import NotRunning
from bench.tables import TABLES
from local.loop import new_event_loop

# What is run, and by which second of the run it should be done.
_CASES = {
    "relay": (relay.run, 100),
    "streams": (streams.run, 300),
    "path": (path.run, 390),
    "starts": (starts.run, 420),
    "resume": (resume.run, 440),
    "cold": (cold.run, 500),
    "cost": (cost.run, 500),
    "growth": (growth.run, 590),
}
# One build more, and more rounds of both.
_SLOWER_BESIDE = 2
_ROUNDS_BESIDE = 4
_QUICK_ROUNDS_BESIDE = 2


async def _run(arguments: argparse.Namespace, revision: builds.Revision | None) -> int:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        # The embedded Postgres runs as another user.
        os.chmod(name, 0o755)
        folder = Path(name)
        measured = [builds.present(folder)]
        if revision is not None:
            log(f"building {revision.short}")
            measured.append(builds.past(revision, folder))
        bench = Bench(
            folder,
            measured,
            quick=arguments.quick,
            skip=arguments.skip,
            rounds_of_builds=arguments.rounds,
        )
        try:
            await bench.start()
            for case in arguments.only or _CASES:
                log(f"== {case}")
                bench.case = case
                run, seconds = _CASES[case]
                bench.due = begin + seconds * (1 if revision is None else _SLOWER_BESIDE)
                await run(bench)
        finally:
            bench.stop()
    order = [relay.DIRECT, *bench.labels()]
    if revision is None:
        text = report.markdown(bench.sheet, TABLES, order)
        path = report.write(bench.sheet, text, name=arguments.name)
    else:
        lines = compare(bench.sheet, TABLES, *measured)
        text = report.markdown(bench.sheet, TABLES, order, section(lines, revision))
        beside = {"revision": revision.name, "figures": [asdict(line) for line in lines]}
        path = report.write(bench.sheet, text, name=arguments.name, beside=beside)
    print(f"\n{text}")
    print(f"Written to {path}")
    log(f"took {time.monotonic() - begin:.0f} s")
    return 1 if bench.failed else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [kind.__name__.lower() for kind in ALL]
    parser.add_argument("--only", nargs="+", choices=list(_CASES), help="measure only this")
    parser.add_argument("--skip", nargs="+", default=[], choices=names, help="leave contenders out")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, rougher figures")
    parser.add_argument(
        "--against", metavar="REVISION", help="measure that revision of Parley too, beside the present one"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of the two builds, at least; for a narrower range"
    )
    parser.add_argument(
        "--name", help="name of the files in bench/results; the date of a whole run, or latest"
    )
    arguments = parser.parse_args(words)
    if arguments.against and "parley" in arguments.skip:
        parser.error("--against measures Parley, which --skip leaves out")
    if arguments.rounds is None:
        arguments.rounds = _QUICK_ROUNDS_BESIDE if arguments.quick else _ROUNDS_BESIDE
    elif not arguments.against:
        parser.error("--rounds is for --against")
    if arguments.name is None:
        partial = arguments.only or arguments.skip or arguments.quick or arguments.against
        arguments.name = "latest" if partial else time.strftime("%Y-%m-%d")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Read the arguments and run."""
    arguments = _arguments(words)
    try:
        revision = builds.Revision.named(arguments.against) if arguments.against else None
    except builds.UnknownRevision as error:
        print(error, file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    gc.disable()  # the driver's pauses would be taken for the server's
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run(arguments, revision))
    except (NotInstalled, NotRunning, BadAnswer) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
