"""Builds of Parley, each in a folder of its own: the working tree's, and that of an older revision."""

import compileall
import functools
import io
import py_compile
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.install import PYTHON, ROOT, NotInstalled, python_environment

# What a checkout does not have: the environments, the caches, a developer's `.env`, what was built.
_IGNORED = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "dist", "build")
_LOCK = "requirements-dev.txt"
# What loads the models into a build's database. A revision without it cannot be measured.
_MIGRATE = "functions/migrate/app.py"


class UnknownRevision(Exception):
    """Git has no such revision, or it cannot be measured; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit: its name in full and in short, and its subject."""

    name: str
    short: str
    subject: str

    @classmethod
    def named(cls, text: str, repository: Path = ROOT) -> "Revision":
        """Return what git takes this for; raises `UnknownRevision`."""
        try:
            name = _git(repository, "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}").decode().strip()
        except NotInstalled:
            raise UnknownRevision(f"{text}: git knows no such revision here.") from None
        short = _git(repository, "log", "-1", "--format=%h", name).decode().strip()
        subject = _git(repository, "log", "-1", "--format=%s", name).decode().strip()
        try:
            able = "Catalogue" in _git(repository, "show", f"{name}:./{_MIGRATE}").decode()
        except NotInstalled:
            able = False
        if not able:
            raise UnknownRevision(f"{text} ({short}): its {_MIGRATE} loads no catalogue, it is too old.")
        return cls(name, short, subject)


@dataclass(frozen=True)
class Build:
    """Parley's code as it was at one moment, and the Python with its packages.

    `name` is a word for its folders, its database and its keys in Valkey; `label` is for the tables.
    """

    name: str
    label: str
    root: Path
    python: Path = PYTHON

    @property
    def protocol(self) -> list[str]:
        """Uvicorn's options for its event loop and its HTTP, which are the build's own or uvicorn's."""
        loop = "local.loop:new_event_loop" if (self.root / "local/loop.py").exists() else "asyncio"
        words = (self.root / "functions/stream/run.sh").read_text("utf-8").split()
        http = words[words.index("--http") + 1] if "--http" in words else "auto"
        return ["--loop", loop, "--http", http]

    @functools.cached_property
    def deployed(self) -> Path:
        """The functions and the layer as they are deployed: compiled, and unchecked against sources."""
        folder = self.root.with_name(f"{self.name}-deployed")
        shutil.copytree(self.root / "layers/common/parley", folder / "layer/parley")
        shutil.copytree(self.root / "functions", folder / "functions")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=1, force=True, invalidation_mode=mode)
        return folder


def present(folder: Path, tree: Path = ROOT) -> Build:
    """Copy the working tree, which may be edited while it is measured."""
    root = folder / "present"
    shutil.copytree(tree, root, ignore=_IGNORED, symlinks=True)
    return Build("present", "**Parley**", _compiled(root))


def past(revision: Revision, folder: Path, repository: Path = ROOT) -> Build:
    """Lay a revision out, and install its packages where they are not the present ones.

    Git only reads: it gets no worktree and no reference. Raises `NotInstalled`.
    """
    root = folder / "past"
    archive = io.BytesIO(_git(repository, "archive", "--format=tar", revision.name))
    with tarfile.open(fileobj=archive) as files:
        files.extractall(root, filter="data")
    lock = root / _LOCK
    same = lock.read_bytes() == (ROOT / _LOCK).read_bytes()
    python = PYTHON if same else python_environment("against", lock)
    return Build("past", f"Parley at {revision.short}", _compiled(root), python)


def _compiled(root: Path) -> Path:
    """Compile what a server imports, so that no process pays for it with its memory."""
    for name in ("layers", "functions", "local"):
        compileall.compile_dir(root / name, quiet=2)
    return root


def _git(repository: Path, *words: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", repository, *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotInstalled(f"git {words[0]} failed: {error}") from None
