"""A build of an older revision is that revision's code, run as such, and git keeps no trace of it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from bench.builds import Build, Revision, UnknownRevision, past, present
from bench.driver import BadAnswer
from bench.install import PYTHON, ROOT, NotInstalled
from bench.invocations import Function

_LAUNCH = ROOT / "bench/launch.py"
_SERVER = """
import sys
from functions.start.app import handler
from parley import VERSION
print("serves", VERSION, *sys.argv[1:])
"""
_MIGRATE = 'read(event.get("Catalogue", {}))'
_RUN = "exec python -m uvicorn app:app --loop asyncio --http parley.http:Own --port 1"
_START = """
from parley import VERSION
print("a log line")
def handler(event, context):
    return {"version": VERSION, "event": event, "memory": context.memory_limit_in_mb}
"""


def _write(root: Path, version: str, *, migrate: str = _MIGRATE, run: str = _RUN) -> None:
    for name, text in {
        "layers/common/parley/__init__.py": f"VERSION = {version!r}\n",
        "functions/start/app.py": _START,
        "local/__init__.py": "",
        "functions/migrate/app.py": migrate,
        "functions/stream/run.sh": run,
        "local/server.py": _SERVER,
        "requirements-dev.txt": (ROOT / "requirements-dev.txt").read_text("utf-8"),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


def _git(repository: Path, *words: str) -> str:
    names = ["-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(repository), *names, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _commit(repository: Path, subject: str) -> None:
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message", subject)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with two commits, and a change that is in none."""
    root = tmp_path / "repository"
    root.mkdir()
    _git(root, "init", "--quiet")
    _write(root, "first")
    _commit(root, "The first")
    _write(root, "second")
    _commit(root, "The second")
    _write(root, "third")
    (root / ".env").write_text("KEY_SECRET=of a developer\n")
    return root


def _launch(root: Path, path: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", str(_LAUNCH), str(root), "local.server", "--port", "1"]
    env = {"PYTHONPATH": f"{path / 'layers/common'}:{path}"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_revision_has_its_commits_name_and_subject(repository: Path) -> None:
    found = Revision.named("HEAD~1", repository)
    assert found.name == _git(repository, "rev-parse", "HEAD~1").strip()
    assert found.name.startswith(found.short)
    assert found.subject == "The first"


@pytest.mark.parametrize("text", ["nonsense", "HEAD~9", "HEAD..HEAD~1", "--all", "HEAD:local", ""])
def test_what_names_no_commit_is_an_unknown_revision(repository: Path, text: str) -> None:
    with pytest.raises(UnknownRevision, match="git knows no such revision"):
        Revision.named(text, repository)


def test_a_revision_that_loads_no_catalogue_is_too_old(repository: Path) -> None:
    _write(repository, "fourth", migrate="")
    _commit(repository, "Without a catalogue")
    with pytest.raises(UnknownRevision, match="too old"):
        Revision.named("HEAD", repository)


def test_an_old_build_is_its_revisions_code(repository: Path, tmp_path: Path) -> None:
    build = past(Revision.named("HEAD~1", repository), tmp_path, repository)
    done = _launch(build.root, build.root)
    assert done.stdout.splitlines()[-1] == "serves first --port 1", done.stderr
    assert build.label.endswith(_git(repository, "rev-parse", "--short", "HEAD~1").strip())
    assert list(build.root.rglob("__init__.*.pyc")) != []


def test_a_build_is_served_by_its_own_loop_and_protocol(repository: Path, tmp_path: Path) -> None:
    assert present(tmp_path, repository).protocol == ["--loop", "asyncio", "--http", "parley.http:Own"]
    _write(repository, "fourth", run="exec python -m uvicorn app:app --loop asyncio")
    (repository / "local/loop.py").touch()
    folder = tmp_path / "another"
    folder.mkdir()
    build = present(folder, repository)
    assert build.protocol == ["--loop", "local.loop:new_event_loop", "--http", "auto"]


def test_the_working_trees_loop_and_protocol_are_there() -> None:
    _, loop, _, protocol = Build("tree", "", ROOT).protocol
    for named in (loop, protocol):
        module, _, name = named.partition(":")
        assert not name or hasattr(importlib.import_module(module), name)
    assert loop.startswith("local.")  # asyncio's would be taken where the module is not found


def test_equal_locks_need_no_other_environment(repository: Path, tmp_path: Path) -> None:
    assert past(Revision.named("HEAD", repository), tmp_path, repository).python == PYTHON


def test_an_old_build_leaves_no_trace_in_git(repository: Path, tmp_path: Path) -> None:
    def state() -> dict[str, bytes]:
        files = (path for path in (repository / ".git").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    _git(repository, "status")  # which may refresh the index
    before = state()
    past(Revision.named("HEAD~1", repository), tmp_path, repository)
    assert state() == before


def test_a_revision_that_git_lost_is_not_installed(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="git archive failed"):
        past(Revision("0" * 40, "0000000", "Nothing"), tmp_path, repository)


def test_the_present_build_is_the_working_tree_without_its_secrets(repository: Path, tmp_path: Path) -> None:
    build = present(tmp_path, repository)
    _write(repository, "edited while it is measured")
    assert _launch(build.root, build.root).stdout.startswith("a log line\nserves third")
    assert not (build.root / ".env").exists()
    assert not (build.root / ".git").exists()


def test_another_trees_code_is_not_run(repository: Path, tmp_path: Path) -> None:
    build = past(Revision.named("HEAD", repository), tmp_path, repository)
    done = _launch(build.root, repository)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"Not the code of {build.root}: parley of {repository}" in done.stderr


def test_a_function_answers_one_event_after_the_other(repository: Path, tmp_path: Path) -> None:
    build = present(tmp_path, repository)
    with Function(build, "start", {}, tmp_path / "function.log") as function:
        answers = [function.invoke({"number": number}) for number in range(3)]
    assert [each["answer"]["event"]["number"] for each in answers] == [0, 1, 2]
    assert {each["answer"]["version"] for each in answers} == {"third"}
    assert 0 < answers[0]["processor"] <= answers[1]["processor"] <= answers[2]["processor"]
    assert all(each["seconds"] > 0 for each in answers)
    assert (tmp_path / "function.log").read_text() == "a log line\n"


def test_a_function_that_fails_says_why(repository: Path, tmp_path: Path) -> None:
    (repository / "functions/start/app.py").write_text("raise RuntimeError('out of order')\n")
    build = present(tmp_path, repository)
    with Function(build, "start", {}, tmp_path / "function.log") as function:
        with pytest.raises(BadAnswer, match="out of order"):
            function.invoke({})
        with pytest.raises(BadAnswer):
            function.invoke({})


def test_a_function_of_another_build_is_no_answer(repository: Path, tmp_path: Path) -> None:
    other = present(tmp_path, repository)
    start = repository / "functions/start/app.py"
    start.write_text(f"import sys\nsys.path.insert(0, {str(other.root / 'layers/common')!r})\n{_START}")
    root = tmp_path / "elsewhere"
    root.mkdir()
    build = present(root, repository)
    with (
        Function(build, "start", {}, tmp_path / "function.log") as function,
        pytest.raises(BadAnswer, match="another build's"),
    ):
        function.invoke({})


def test_two_builds_share_no_name_and_no_folder(repository: Path, tmp_path: Path) -> None:
    one, other = present(tmp_path, repository), past(Revision.named("HEAD", repository), tmp_path, repository)
    assert one.name != other.name
    assert one.label != other.label
    assert one.deployed != other.deployed
