"""A role logs in with a token as boto3 makes it, and its user may do what the functions do, and no more."""

from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import psycopg
import pytest
from psycopg import errors

from local.embedded import Addresses
from local.seed import seed
from parley import bootstrap
from parley.aws import rds
from parley.postgres import roles
from parley.settings import Settings, SettingsError
from parley.usecases import purge
from tests.conformance.requests import new_session

HOST = "db.cluster-abc.eu-west-1.rds.amazonaws.com"
URL = f"postgresql://parley_app@{HOST}:5432/parley?sslmode=require"
USER = "parley_app"


@pytest.fixture
def _role(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret/of+the=role",
        "AWS_SESSION_TOKEN": "session/of+the=role",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    rds._session.cache_clear()


@pytest.mark.usefixtures("_role")
def test_the_token_is_what_boto3_would_make() -> None:
    client = boto3.client("rds", region_name="eu-west-1")
    for _ in range(5):
        made = rds.with_token(URL)
        expected = client.generate_db_auth_token(DBHostname=HOST, Port=5432, DBUsername=USER)
        token = unquote(urlsplit(made).password or "")
        # Both carry the second they were made in.
        if parse_qs(token)["X-Amz-Date"] == parse_qs(expected)["X-Amz-Date"]:
            break
    assert token == expected
    assert made.startswith(f"postgresql://{USER}:")
    assert made.endswith(f"@{HOST}:5432/parley?sslmode=require")


@pytest.mark.usefixtures("_role")
async def test_each_connection_logs_in_with_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def connect(url: str, **_: object) -> None:
        opened.append(url)
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(psycopg, "connect", connect)
    its = bootstrap.build(Settings(database_url=URL, database_iam=True, key_secret="s" * 32))
    with pytest.raises(Exception, match="reached"):
        await its.store.check()
    assert opened
    assert all("X-Amz-Signature" in url and "X-Amz-Security-Token" in url for url in opened)
    await its.close()


async def test_the_user_may_do_what_the_functions_do_and_no_more(own_postgres: Addresses) -> None:
    await seed(own_postgres.database_url)
    with psycopg.connect(own_postgres.database_url, autocommit=True) as owner:
        # RDS has this role; whoever has it logs in by token alone.
        owner.execute("create role rds_iam")
        is_member = "select pg_has_role(%s, 'rds_iam', 'member')"
        for _ in range(2):
            await roles.let_in(own_postgres.database_url, USER)
            assert owner.execute(is_member, [USER]).fetchone() == (True,)
        for password in ("the first", "in-place-of-a-token"):
            await roles.let_in(own_postgres.database_url, USER, password)
            assert owner.execute(is_member, [USER]).fetchone() == (False,)
        [[held]] = owner.execute("select rolpassword from pg_authid where rolname = %s", [USER]).fetchall()
        assert held.startswith("SCRAM-SHA-256$")
    parts = urlsplit(own_postgres.database_url)
    url = f"postgresql://{USER}:in-place-of-a-token@127.0.0.1:{parts.port}/parley"
    its = bootstrap.build(Settings(database_url=url, key_secret="s" * 32, demo_model=True))
    assert await its.store.models("demo-free")
    await its.store.start(new_session(user="demo-pro", model="demo"))
    await purge.purge(its.store, its.log, batch=10, retention_days=1)
    await its.close()
    with psycopg.connect(url, autocommit=True) as user:
        started = user.execute(
            "select outcome from begin_session('demo-pro', false, 'Why?', 'demo', null, false,"
            " null, 'h', 't', 'session', 'chat', 'message', 'reply', 600, null, null)"
        ).fetchone()
        assert started == ("started",)
        user.execute("delete from chats where id = 'chat'")
        for forbidden in (
            "create table more ()",
            "drop table chats",
            "alter table users add column more int",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                user.execute(forbidden.encode())
        with pytest.raises(errors.InsufficientPrivilege):
            user.execute("create role another")


async def test_a_user_with_a_password_needs_no_rds(own_postgres: Addresses) -> None:
    await roles.let_in(own_postgres.database_url, USER, "it's a 'password'")
    parts = urlsplit(own_postgres.database_url)
    with psycopg.connect(
        host="127.0.0.1", port=parts.port, dbname="parley", user=USER, password="it's a 'password'"
    ) as user:
        assert user.execute("select current_user").fetchone() == (USER,)


def test_a_role_needs_no_secret() -> None:
    with pytest.raises(SettingsError, match="DATABASE_IAM"):
        Settings.from_env({"DATABASE_IAM": "true", "DATABASE_SECRET_ARN": "arn"})
