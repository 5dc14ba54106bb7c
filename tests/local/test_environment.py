"""The environment of a laptop's server."""

import stat
from pathlib import Path

import pytest

from local.environment import EnvFileError, prepare, read_env, set_key_secret


def test_a_dotenv_is_read_simply() -> None:
    text = "# keys\n\nA=1\nexport B = two words \nC='#3'\nD=\"x=y\"\nE=\nF=it's\n"
    assert read_env(text) == {"A": "1", "B": "two words", "C": "#3", "D": "x=y", "E": "", "F": "it's"}


def test_a_malformed_line_is_named_without_its_content() -> None:
    with pytest.raises(EnvFileError, match=r"^line 2 of \.env is not NAME=value\.$"):
        read_env("A=1\nsk-secret\n")


def test_the_process_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VALKEY_URL=redis://file\nDEMO_MODEL=false\n")
    env = {"VALKEY_URL": ""}
    prepare(tmp_path, env)
    defaults = {"AUTH_MODE": "trusted", "ALLOW_TRUSTED": "true", "SHARE_CONTEXT_FREE": "true"}
    defaults |= {"LOG_LEVEL": "WARNING"}
    assert env == defaults | {"VALKEY_URL": "", "DEMO_MODEL": "false"}


def test_the_key_secret_is_kept_with_the_data(tmp_path: Path) -> None:
    first: dict[str, str] = {}
    again: dict[str, str] = {}
    set_key_secret(tmp_path, shared=False, env=first)
    set_key_secret(tmp_path, shared=False, env=again)
    assert first == again
    assert len(first["KEY_SECRET"]) >= 32
    assert stat.S_IMODE((tmp_path / "key-secret").stat().st_mode) == 0o600


def test_servers_that_share_a_database_agree_on_the_key_secret(tmp_path: Path) -> None:
    one = {"DATABASE_URL": "postgresql://a/b"}
    two = {"DATABASE_URL": "postgresql://a/b"}
    other = {"DATABASE_URL": "postgresql://a/c"}
    for number, env in enumerate((one, two, other)):
        set_key_secret(tmp_path / str(number), shared=True, env=env)
    assert one == two
    assert one["KEY_SECRET"] != other["KEY_SECRET"]


def test_a_key_secret_that_is_set_stays(tmp_path: Path) -> None:
    env = {"KEY_SECRET": "mine"}
    set_key_secret(tmp_path, shared=False, env=env)
    assert env == {"KEY_SECRET": "mine"}
