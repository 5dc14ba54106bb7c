"""The laptop's server as a developer meets it: real processes, real signals."""

import shutil
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.local.laptop import Laptop, gone, kill_all
from tests.valkey.cluster import cluster


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder that is not there yet."""
    return tmp_path / "laptop" / "data"


@pytest.fixture(scope="session")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laptop") / "data"
    with Laptop(folder) as laptop:
        laptop.ready()
        assert laptop.end(signal.SIGTERM) == 0
    return folder


@pytest.fixture
def used(data: Path, left_behind: Path) -> Path:
    """Return a data folder that a server used before, which is ready sooner."""
    return Path(shutil.copytree(left_behind, data))


def ask(url: str, prompt: str) -> dict[str, Any]:
    """Start a chat, read its stream to the end, and return what start answered."""
    body = {"prompt": prompt, "modelId": "demo", "userId": "demo-free"}
    started = httpx.post(f"{url}/api/chat/start", json=body, timeout=30)
    assert started.status_code == 201, started.text
    answer: dict[str, Any] = started.json()
    stream = httpx.get(f"{url}/api/chat/stream", params={"sessionId": answer["sessionId"]}, timeout=30)
    assert '"type":"done"' in stream.text
    return answer


def history(url: str, chat_id: str) -> list[dict[str, Any]]:
    """Return a chat's messages."""
    answer = httpx.get(
        f"{url}/api/chat/history", params={"chatId": chat_id, "userId": "demo-free"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    messages: list[dict[str, Any]] = answer.json()["messages"]
    return messages


FAST = {"DEMO_TOKENS_PER_SECOND": "0"}


def test_data_survives_a_restart(data: Path) -> None:
    with Laptop(data, env=FAST) as laptop:
        url = laptop.ready()
        chat_id = ask(url, "What is a log?")["chatId"]
        before = history(url, chat_id)
        assert laptop.end(signal.SIGTERM) == 0
    with Laptop(data, env=FAST) as laptop:
        assert history(laptop.ready(), chat_id) == before
        assert laptop.end(signal.SIGINT) == 0


def test_a_page_whose_name_was_made_to_lead_here_is_answered_nothing(used: Path) -> None:
    with Laptop(used) as laptop:
        url = laptop.ready()
        port = url.rpartition(":")[2]
        names = {
            f"127.0.0.1:{port}": 200,
            f"localhost:{port}": 200,
            "LOCALHOST": 200,
            "example.com": 400,
            f"127.0.0.1.example.com:{port}": 400,
            f"localhost.example.com:{port}": 400,
            f"192.168.1.5:{port}": 400,
            "127.0.0.1@example.com": 400,
            "": 400,
        }
        for path in ("/chat", "/api/health", "/api/chat/models?userId=demo-free", "/nothing"):
            for name, status in names.items():
                answer = httpx.get(f"{url}{path}", headers={"host": name}, timeout=30)
                expected = 404 if status == 200 and path == "/nothing" else status
                assert answer.status_code == expected, (path, name)
                assert answer.headers["x-content-type-options"] == "nosniff"
                if status == 400:
                    assert answer.headers["cache-control"] == "no-store"
                    assert answer.json()["error"]["code"] == "invalid_request"


def test_one_shard_of_a_valkey_cluster_is_refused_with_a_sentence(used: Path, tmp_path: Path) -> None:
    with (
        cluster(tmp_path / "cluster", shards=2) as urls,
        Laptop(used, env={"VALKEY_URL": urls[0]}) as laptop,
    ):
        assert laptop.process.wait(60) == 1
        assert laptop.process.stderr is not None
        assert "VALKEY_URL leads to one shard of a cluster" in laptop.process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_process(used: Path, number: signal.Signals) -> None:
    with Laptop(used) as laptop:
        laptop.ready()
        family = laptop.family()
        assert len(family) > 3
        assert laptop.end(number) == 0
        assert gone(family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_it_starts_leaves_no_process_and_the_folder_fit_for_use(
    data: Path, number: signal.Signals
) -> None:
    with Laptop(data) as laptop:
        while not (data / "stores" / "postgres.new").exists():
            time.sleep(0.005)
        family = laptop.family()
        laptop.end(number)
        assert gone(family)
    with Laptop(data) as laptop:
        laptop.ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_database_says_nothing_ends_it_at_once(data: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = "postgresql://parley@127.0.0.1:{1}/parley".format(*silent.getsockname())
        with Laptop(data, env={"DATABASE_URL": url, "VALKEY_URL": ""}) as laptop:
            connection, _ = silent.accept()
            # It keeps silent until after the end.
            with connection:
                assert laptop.end(number) == 0


def test_a_signal_while_a_reply_is_written_leaves_no_process(used: Path) -> None:
    with Laptop(used, env={"DEMO_TOKENS_PER_SECOND": "5"}) as laptop:
        url = laptop.ready()
        family = laptop.family()
        body = {"prompt": "What is a log?", "modelId": "demo", "userId": "demo-free"}
        session = httpx.post(f"{url}/api/chat/start", json=body, timeout=30).json()["sessionId"]
        stream_url = f"{url}/api/chat/stream?sessionId={session}"
        with httpx.stream("GET", stream_url, timeout=30) as stream:
            next(stream.iter_raw())
            assert laptop.end(signal.SIGTERM) == 0
        assert gone(family)


def test_sigkill_leaves_no_process_and_the_folder_fit_for_use(used: Path) -> None:
    with Laptop(used, env=FAST) as laptop:
        chat_id = ask(laptop.ready(), "What is a log?")["chatId"]
        family = laptop.family()
        laptop.end(signal.SIGKILL)
        # At once, while the stores are still being stopped.
        with Laptop(used, env=FAST) as second:
            assert len(history(second.ready(), chat_id)) == 2
            assert gone(family, seconds=0)
            second.end(signal.SIGTERM)


def test_sigkill_of_everything_at_once_leaves_the_folder_fit_for_use(used: Path) -> None:
    with Laptop(used, env=FAST) as laptop:
        chat_id = ask(laptop.ready(), "What is a log?")["chatId"]
        family = laptop.family()
        kill_all(family)
        assert gone(family)
    with Laptop(used, env=FAST) as laptop:
        assert len(history(laptop.ready(), chat_id)) == 2


def test_sigkill_of_the_stores_keeper_leaves_no_store(used: Path) -> None:
    with Laptop(used) as laptop:
        laptop.ready()
        keeper = next(p for p in laptop.family() if "local.stores" in p.cmdline())
        stores = keeper.children(recursive=True)
        keeper.kill()
        assert gone(stores)


def test_a_dead_parent_ends_the_server(used: Path) -> None:
    with Laptop(used, parent=True) as laptop:
        laptop.ready()
        family = laptop.family()
        laptop.end(signal.SIGKILL)
        assert gone(family)


def test_a_port_in_use_is_named_and_nothing_stays(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Laptop(data, port=port) as laptop:
            assert laptop.process.wait(60) == 1
            assert f"port {port} of 127.0.0.1 is not free" in laptop.errors()
    assert not (data / "stores").exists()


@pytest.mark.parametrize(
    ("env", "port", "said"),
    [
        ({}, "70000", "PORT=70000 must be a number from 0 to 65535"),
        ({}, "-1", "PORT=-1 must be a number from 0 to 65535"),
        ({}, "web", "PORT=web must be a number from 0 to 65535"),
        ({"DATABASE_URL": "hush"}, "0", "DATABASE_URL must be a URL"),
        (
            {"DATABASE_URL": "postgresql://u:hush@127.0.0.1:x/d", "VALKEY_URL": ""},
            "0",
            'connection option "port"',
        ),
        (
            {"DATABASE_URL": "postgresql://u:hush@127.0.0.1/d?x=1", "VALKEY_URL": ""},
            "0",
            "DATABASE_URL cannot be used",
        ),
        ({"VALKEY_URL": "hush:6379"}, "0", "VALKEY_URL must be a URL"),
        ({"OPENAI_BASE_URL": "hush"}, "0", "OPENAI_BASE_URL must be a URL"),
        ({"SESSION_SECONDS": "long"}, "0", "SESSION_SECONDS must be a whole number above 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_in_one_line(
    data: Path, env: dict[str, str], port: str, said: str
) -> None:
    with Laptop(data, port=port, env=env) as laptop:
        assert laptop.process.wait(60) == 1
        errors = laptop.errors()
    assert errors.startswith("Parley cannot start: ")
    assert said in errors
    assert errors.count("\n") == 1
    assert "hush" not in errors
    assert not (data / "stores").exists()


@pytest.mark.parametrize("inside", [".", "below"])
def test_a_folder_that_cannot_be_one_is_named_in_one_line(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    data = tmp_path / "file" / inside
    with Laptop(data, parent_folder=tmp_path) as laptop:
        assert laptop.process.wait(60) == 1
        errors = laptop.errors()
    assert errors.startswith(f"Parley cannot start: DATA={data} must be a folder")
    assert errors.count("\n") == 1


def test_a_second_server_on_one_folder_is_told_who_has_it(used: Path, left_behind: Path) -> None:
    with Laptop(used) as first:
        url = first.ready()
        with Laptop(used) as second:
            assert second.process.wait(60) == 1
            assert f"{used} is in use by a Parley that serves {url}" in second.errors()
        with Laptop(Path(shutil.copytree(left_behind, used.with_name("other")))) as third:
            assert third.ready() != url
        assert httpx.get(f"{url}/api/health").status_code == 200


def test_the_folder_is_its_owners_only_and_the_folders_above_stay_as_they_were(data: Path) -> None:
    data.parent.mkdir(mode=0o700)
    with Laptop(data) as laptop:
        laptop.ready()
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert not [p for p in data.rglob("*") if p.is_file() and stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700


def test_two_servers_share_real_stores(data: Path, database_url: str, valkey_url: str) -> None:
    shared = FAST | {"DATABASE_URL": database_url, "VALKEY_URL": valkey_url}
    with Laptop(data, env=shared) as first, Laptop(data, env=shared) as second:
        one, two = first.ready(), second.ready()
        assert len(first.family()) == 1
        chat_id = ask(one, "What is a log?")["chatId"]
        assert len(history(two, chat_id)) == 2


def test_a_dotenv_replaces_the_stores(data: Path, database_url: str) -> None:
    data.parent.mkdir(parents=True)
    (data.parent / ".env").write_text(f"# mine\nDATABASE_URL='{database_url}'\nVALKEY_URL=\n")
    with Laptop(data, env=FAST) as laptop:
        ask(laptop.ready(), "What is a log?")
        assert len(laptop.family()) == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from chats").fetchone() == (1,)


def test_a_database_that_does_not_answer_is_a_clear_error(data: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hush@127.0.0.1:{silent.getsockname()[1]}/none"
        with Laptop(data, env={"DATABASE_URL": url, "VALKEY_URL": ""}) as laptop:
            assert laptop.process.wait(60) == 1
            errors = laptop.errors()
    assert "the database does not answer" in errors
    assert "hush" not in errors
    assert "Traceback" not in errors


def test_a_catalogue_of_ones_own(used: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """
[[plans]]
id = "all"
title = "All"
default = true

[[models]]
id = "mine"
title = "Mine"
provider = "openai"
name = "llama3.2"
plans = ["all"]
max_output_tokens = 512
context_characters = 8000
"""
    )
    env = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    # On data that another catalogue filled before.
    with Laptop(used, env=env, catalogue=own) as laptop:
        models = httpx.get(f"{laptop.ready()}/api/chat/models", params={"userId": "demo-pro"}).json()[
            "models"
        ]
        assert [(model["id"], model["available"]) for model in models] == [("mine", True)]
        assert laptop.end(signal.SIGTERM) == 0
    own.write_text("[[models]]\nid = 3")
    with Laptop(used, catalogue=own) as laptop:
        assert "own.toml makes no sense" in laptop.errors()
    with Laptop(used, catalogue=tmp_path / "nowhere.toml") as laptop:
        assert "nowhere.toml cannot be read" in laptop.errors()
