"""Installs the peers from their locks, each into an environment of its own; once, until its lock changes."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench/peers"
PYTHON = ROOT / ".venv/bin/python"


class NotInstalled(Exception):
    """A peer could not be installed; the message says why."""


def python_peer(name: str) -> None:
    """Install the packages of a peer in Python; raises `NotInstalled`."""
    python_environment(name, PEERS / name / "requirements.txt")


def python_environment(name: str, lock: Path) -> Path:
    """Install the packages of a lock and return the Python that has them; raises `NotInstalled`."""
    environment = ROOT / f".venv-bench-{name}"
    python = environment / "bin/python"
    stamp = environment / ".installed"
    if _current(stamp, [lock]):
        return python
    print(
        f"Installing the packages of {lock.parent.name}/{lock.name} into {environment.name} ...", flush=True
    )
    _run([sys.executable, "-m", "venv", "--clear", environment])
    packages = ["--require-hashes", "--quiet"]
    uv = [sys.executable, "-m", "uv", "pip", "sync", "--compile-bytecode"]
    try:
        _run([*uv, "--python", python, *packages, lock])
    except NotInstalled:
        # Where uv has no wheel or cannot reach an index that pip can, pip does the same, slowly.
        _run([python, "-m", "pip", "install", *packages, "-r", lock])
    _mark(stamp, [lock])
    return python


def node_peer(name: str) -> None:
    """Install and build a peer on Node; raises `NotInstalled`."""
    folder = PEERS / name
    sources = [folder / "package-lock.json", folder / "tsconfig.json", *sorted((folder / "src").glob("*.ts"))]
    stamp = folder / "node_modules/.installed"
    if _current(stamp, sources):
        return
    if shutil.which("npm") is None:
        raise NotInstalled("Node.js is not installed.")
    print(f"Installing {name} from {sources[0].relative_to(ROOT)} ...", flush=True)
    _run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], folder)
    _run(["npm", "run", "--silent", "build"], folder)
    _mark(stamp, sources)


def _run(command: Sequence[str | Path], cwd: Path = ROOT) -> None:
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise NotInstalled(f"{Path(command[0]).name} failed: {' '.join(said[-3:])}")


def _digest(sources: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _current(stamp: Path, sources: Sequence[Path]) -> bool:
    return stamp.exists() and stamp.read_text() == _digest(sources)


def _mark(stamp: Path, sources: Sequence[Path]) -> None:
    stamp.write_text(_digest(sources))


def main() -> int:
    """Install every peer; return 1 if one could not be installed."""
    failed = 0
    for install, name in ((python_peer, "fastapi"), (python_peer, "litellm"), (node_peer, "nest")):
        try:
            install(name)
        except NotInstalled as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
