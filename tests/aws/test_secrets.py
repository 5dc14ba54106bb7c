"""Secrets are fetched once, and once more after one was refused; Secrets Manager is moto's."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from parley.aws import secrets
from parley.aws.secrets import Secrets
from parley.domain.errors import Unavailable
from parley.settings import Settings, SettingsError

HOST = "postgresql://db.example:5432/parley?sslmode=require"


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield boto3.client("secretsmanager", region_name="eu-west-1")


def create(manager: Any, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return str(manager.create_secret(Name="parley", SecretString=text)["ARN"])


async def test_without_an_arn_the_settings_serve() -> None:
    settings = Settings(database_url=HOST, openai_api_key="from-the-environment")
    held = Secrets(settings)
    assert await held.database_url() == HOST
    assert held.keys() is settings


async def test_the_login_that_rds_made_goes_into_the_url(manager: Any) -> None:
    arn = create(manager, {"username": "parley", "password": "a/b@c:d?e#f%g h"})
    held = Secrets(Settings(database_url=HOST, database_secret_arn=arn))
    assert await held.database_url() == HOST.replace("//", "//parley:a%2Fb%40c%3Ad%3Fe%23f%25g%20h@")


async def test_valkeys_login_goes_into_the_url_wherever_that_comes_from(manager: Any) -> None:
    login = create(manager, {"username": "parley", "password": "a/b@c:d"})
    keys = manager.create_secret(Name="keys", SecretString='{"VALKEY_URL": "rediss://cache.example:6379"}')
    url = "rediss://parley:a%2Fb%40c%3Ad@cache.example:6379"
    for settings in (
        Settings(valkey_url="rediss://cache.example:6379", valkey_secret_arn=login),
        Settings(keys_secret_arn=keys["ARN"], valkey_secret_arn=login),
    ):
        held = Secrets(settings)
        assert held.valkey_url() == url
        manager.put_secret_value(SecretId=login, SecretString='{"username": "parley", "password": "new"}')
        assert held.valkey_url() == url
        assert held.valkey_url(url) == "rediss://parley:new@cache.example:6379"
        manager.put_secret_value(SecretId=login, SecretString='{"username": "parley", "password": "a/b@c:d"}')
    assert Secrets(Settings(valkey_url="redis://:own@here")).valkey_url() == "redis://:own@here"


async def test_a_secret_may_be_the_whole_url(manager: Any) -> None:
    arn = create(manager, "postgresql://me:pw@elsewhere/db\n")
    assert (
        await Secrets(Settings(database_secret_arn=arn)).database_url() == "postgresql://me:pw@elsewhere/db"
    )


async def test_a_rotated_password_is_fetched_once(manager: Any) -> None:
    arn = create(manager, {"username": "parley", "password": "old"})
    asked: list[str] = []
    aws = secrets.SecretsManager()

    def fetch(name: str) -> str:
        asked.append(name)
        return aws.fetch(name)

    held = Secrets(Settings(database_url=HOST, database_secret_arn=arn), fetch)
    old = await held.database_url()
    manager.put_secret_value(SecretId=arn, SecretString='{"username": "parley", "password": "new"}')
    assert await held.database_url() == old
    # Many connections are refused at once: one fetch, and everybody has the new password.
    fresh = await asyncio.gather(*(held.database_url(old) for _ in range(20)))
    assert set(fresh) == {HOST.replace("//", "//parley:new@")}
    assert asked == [arn, arn]
    # Refused again, at once: not the password's fault, and Secrets Manager is left alone.
    assert await held.database_url(fresh[0]) == fresh[0]
    assert asked == [arn, arn]


async def test_keys_fill_in_what_the_environment_leaves_open(manager: Any) -> None:
    arn = create(
        manager, {"OPENAI_API_KEY": "sk-1", "XAI_API_KEY": "", "KEY_SECRET": "k" * 32, "VALKEY_URL": "v"}
    )
    settings = Settings(keys_secret_arn=arn, valkey_url="rediss://here", log_level="DEBUG")
    filled = Secrets(settings).keys()
    assert filled.openai_api_key == "sk-1"
    assert filled.key_secret == "k" * 32
    assert filled.xai_api_key == ""
    assert filled.valkey_url == "rediss://here"
    assert filled.log_level == "DEBUG"


async def test_the_keys_secret_may_have_a_previous_key_secret(manager: Any) -> None:
    arn = create(manager, {"KEY_SECRET": "k" * 32, "KEY_SECRET_PREVIOUS": "p" * 32})
    assert Secrets(Settings(keys_secret_arn=arn)).keys().key_secret_previous == "p" * 32


@pytest.mark.parametrize("name", ["KEY_SECRET", "KEY_SECRET_PREVIOUS"])
async def test_a_key_secret_that_is_too_short_is_refused_wherever_it_comes_from(
    manager: Any, name: str
) -> None:
    held = Secrets(Settings(keys_secret_arn=create(manager, {name: "too short"})))
    with pytest.raises(SettingsError, match=f"^{name} must have at least 32 characters") as error:
        held.keys()
    assert "too short" not in str(error.value)


async def test_a_key_of_the_secret_crosses_the_internet_by_tls_only(manager: Any) -> None:
    arn = create(manager, {"XAI_API_KEY": "hidden"})
    held = Secrets(Settings(keys_secret_arn=arn, xai_base_url="http://api.example/v1"))
    with pytest.raises(SettingsError, match=r"^XAI_BASE_URL must be an https URL") as error:
        held.keys()
    assert "hidden" not in str(error.value)


async def test_a_refused_key_is_fetched_anew(manager: Any) -> None:
    arn = create(manager, {"OPENAI_API_KEY": "sk-1"})
    held = Secrets(Settings(keys_secret_arn=arn))
    before = held.keys()
    manager.put_secret_value(SecretId=arn, SecretString='{"OPENAI_API_KEY": "sk-2"}')
    assert held.keys(before).openai_api_key == "sk-2"


async def test_away_is_a_503_and_forgotten(manager: Any) -> None:
    held = Secrets(
        Settings(database_url=HOST, database_secret_arn="arn:aws:secretsmanager:eu-west-1:1:secret:no")
    )
    with pytest.raises(Unavailable):
        await held.database_url()
    manager.create_secret(Name="no", SecretString='{"username": "a", "password": "b"}')
    held = Secrets(Settings(database_url=HOST, database_secret_arn="no"))
    assert "a:b@" in await held.database_url()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"password": "p"}', "username and password"),
        ('{"username": "u", "password": 1}', "JSON object of texts"),
        ("{nonsense", "JSON object"),
    ],
)
async def test_a_secret_of_the_wrong_form_says_so(text: str, complaint: str) -> None:
    held = Secrets(
        Settings(
            database_url=HOST, database_secret_arn="db", valkey_url="redis://h", valkey_secret_arn="log"
        ),
        lambda _: text,
    )
    with pytest.raises(SettingsError, match=f"DATABASE_SECRET_ARN.*{complaint}") as error:
        await held.database_url()
    assert text not in str(error.value)
    with pytest.raises(SettingsError, match=f"VALKEY_SECRET_ARN.*{complaint}") as error:
        held.valkey_url()
    assert text not in str(error.value)


@pytest.mark.parametrize("text", ['{"LOG_LEVEL": "DEBUG"}', '{"OPENAI_KEY": "sk"}', "[]", "sk-1"])
async def test_keys_of_the_wrong_form_say_so(text: str) -> None:
    with pytest.raises(SettingsError, match="KEYS_SECRET_ARN"):
        Secrets(Settings(keys_secret_arn="arn"), lambda _: text).keys()
