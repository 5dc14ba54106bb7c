"""The laptop's server as a developer meets it: real processes, real signals."""

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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder that is not there yet."""
    return tmp_path / "laptop" / "data"


def ask(url: str, prompt: str) -> dict[str, Any]:
    """Start a chat, read its stream to the end, and return what start answered."""
    body = {"prompt": prompt, "modelId": "demo", "userId": "demo-free"}
    started = httpx.post(f"{url}/api/chat/start", json=body)
    assert started.status_code == 201, started.text
    answer: dict[str, Any] = started.json()
    stream = httpx.get(f"{url}/api/chat/stream", params={"sessionId": answer["sessionId"]}, timeout=30)
    assert '"type":"done"' in stream.text
    return answer


def history(url: str, chat_id: str) -> list[dict[str, Any]]:
    """Return a chat's messages."""
    answer = httpx.get(f"{url}/api/chat/history", params={"chatId": chat_id, "userId": "demo-free"})
    assert answer.status_code == 200, answer.text
    messages: list[dict[str, Any]] = answer.json()["messages"]
    return messages


FAST = {"DEMO_TOKENS_PER_SECOND": "0"}


def test_data_survives_a_restart_which_takes_under_three_seconds(data: Path) -> None:
    with Laptop(data, env=FAST) as laptop:
        url = laptop.ready()
        chat_id = ask(url, "What is a log?")["chatId"]
        before = history(url, chat_id)
        assert laptop.end(signal.SIGTERM) == 0
    seconds: list[float] = []
    while len(seconds) < 3 and not (seconds and min(seconds) < 3):  # the machine may be busy with other tests
        with Laptop(data, env=FAST) as laptop:
            assert history(laptop.ready(), chat_id) == before
            seconds.append(laptop.seconds)
            assert laptop.end(signal.SIGINT) == 0
    assert min(seconds) < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_process(data: Path, number: signal.Signals) -> None:
    with Laptop(data) as laptop:
        laptop.ready()
        family = laptop.family()
        assert len(family) > 3
        assert laptop.end(number) == 0
        assert gone(family, 0.5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_it_starts_leaves_no_process_and_the_folder_fit_for_use(
    data: Path, number: signal.Signals
) -> None:
    with Laptop(data) as laptop:
        while not (data / "stores" / "postgres.new").exists():
            time.sleep(0.005)
        family = laptop.family()
        laptop.end(number)
        assert gone(family, 5)
    with Laptop(data) as laptop:
        laptop.ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_database_says_nothing_ends_it_at_once(data: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = "postgresql://parley@127.0.0.1:{1}/parley".format(*silent.getsockname())
        with Laptop(data, env={"DATABASE_URL": url, "VALKEY_URL": ""}) as laptop:
            connection, _ = silent.accept()
            with connection:
                begun = time.monotonic()
                assert laptop.end(number) == 0
                assert time.monotonic() - begun < 3


def test_a_signal_while_a_reply_is_written_leaves_no_process(data: Path) -> None:
    with Laptop(data, env={"DEMO_TOKENS_PER_SECOND": "5"}) as laptop:
        url = laptop.ready()
        family = laptop.family()
        body = {"prompt": "What is a log?", "modelId": "demo", "userId": "demo-free"}
        session = httpx.post(f"{url}/api/chat/start", json=body).json()["sessionId"]
        with httpx.stream("GET", f"{url}/api/chat/stream", params={"sessionId": session}) as stream:
            next(stream.iter_raw())
            assert laptop.end(signal.SIGTERM) == 0
        assert gone(family, 0.5)


def test_sigkill_leaves_no_process_and_the_folder_fit_for_use(data: Path) -> None:
    with Laptop(data, env=FAST) as laptop:
        chat_id = ask(laptop.ready(), "What is a log?")["chatId"]
        family = laptop.family()
        laptop.end(signal.SIGKILL)
        # At once, while the stores are still being stopped.
        with Laptop(data, env=FAST) as second:
            assert len(history(second.ready(), chat_id)) == 2
            assert gone(family, 0)
            second.end(signal.SIGTERM)


def test_sigkill_of_everything_at_once_leaves_the_folder_fit_for_use(data: Path) -> None:
    with Laptop(data, env=FAST) as laptop:
        chat_id = ask(laptop.ready(), "What is a log?")["chatId"]
        family = laptop.family()
        kill_all(family)
        assert gone(family, 5)
    with Laptop(data, env=FAST) as laptop:
        assert len(history(laptop.ready(), chat_id)) == 2


def test_sigkill_of_the_stores_keeper_leaves_no_store(data: Path) -> None:
    with Laptop(data) as laptop:
        laptop.ready()
        keeper = next(p for p in laptop.family() if "local.stores" in p.cmdline())
        stores = keeper.children(recursive=True)
        keeper.kill()
        assert gone(stores, 10)


def test_a_dead_parent_ends_the_server(data: Path) -> None:
    with Laptop(data, parent=True) as laptop:
        laptop.ready()
        family = laptop.family()
        laptop.end(signal.SIGKILL)
        assert gone(family, 10)


def test_a_port_in_use_is_named_and_nothing_stays(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Laptop(data, port=port) as laptop:
            assert laptop.process.wait(20) == 1
            assert f"port {port} of 127.0.0.1 is not free" in laptop.errors()
    assert not (data / "stores").exists()


def test_a_second_server_on_one_folder_is_told_who_has_it(data: Path) -> None:
    with Laptop(data) as first:
        url = first.ready()
        with Laptop(data) as second:
            assert second.process.wait(20) == 1
            assert f"{data} is in use by a Parley that serves {url}" in second.errors()
        with Laptop(data.with_name("other")) as third:
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
            assert laptop.process.wait(20) == 1
            errors = laptop.errors()
    assert "the database does not answer" in errors
    assert "hush" not in errors
    assert "Traceback" not in errors


def test_a_catalogue_of_ones_own(data: Path, tmp_path: Path) -> None:
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
    with Laptop(data, env=env, catalogue=own) as laptop:
        models = httpx.get(f"{laptop.ready()}/api/chat/models", params={"userId": "demo-pro"}).json()[
            "models"
        ]
        assert [(model["id"], model["available"]) for model in models] == [("mine", True)]
        assert laptop.end(signal.SIGTERM) == 0
    own.write_text("[[models]]\nid = 3")
    with Laptop(data, catalogue=own) as laptop:
        assert "own.toml makes no sense" in laptop.errors()
    with Laptop(data, catalogue=tmp_path / "nowhere.toml") as laptop:
        assert "nowhere.toml cannot be read" in laptop.errors()
