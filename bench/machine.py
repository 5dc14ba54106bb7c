"""What the machine says of a process: its processor time, its memory; and which core it runs on."""

import ctypes
import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_CORES = sorted(os.sched_getaffinity(0))
# The server under test has a core to itself; what feeds it and reads from it shares the other.
SERVER_CORE = _CORES[-1]
OTHER_CORE = _CORES[0]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def pin(core: int) -> Callable[[], None]:
    """Return what puts a child process on a core before it begins, and ends it when this process is gone."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    return prepare


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time, user and system, that these processes have taken.

    clock_getcpuclockid(3) gives each process a clock of nanoseconds, which also counts threads that ended.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def memory_bytes(pids: list[int]) -> int:
    """Return the memory these processes have to themselves, with their share of what they share (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def description() -> dict[str, str]:
    """Return what a reader of the figures has to know of this machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": str(len(_CORES)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
